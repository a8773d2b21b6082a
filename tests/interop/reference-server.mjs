// The official reference server: node reference-server.mjs PORT [DIRECTORY]. Prints its URL when it serves.
import { DurableStreamTestServer } from "@durable-streams/server"

const [port, dataDir] = process.argv.slice(2)
const server = new DurableStreamTestServer({ port: Number(port), longPollTimeout: 2000, ...(dataDir ? { dataDir } : {}) })
console.log(await server.start())
