// The official reference server: node reference-server.mjs PORT [DIRECTORY [LONG_POLL_MS]]; without DIRECTORY in memory. Prints its URL when it serves.
import { DurableStreamTestServer } from "@durable-streams/server"

const [port, dataDir, longPollTimeout = "2000"] = process.argv.slice(2)
const server = new DurableStreamTestServer({ port: Number(port), longPollTimeout: Number(longPollTimeout), ...(dataDir ? { dataDir } : {}) })
console.log(await server.start())
