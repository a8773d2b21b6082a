// Hocuspocus with its SQLite extension, as its documentation has it: node hocuspocus.mjs PORT FILE.
import { SQLite } from "@hocuspocus/extension-sqlite"
import { Server } from "@hocuspocus/server"

const [port, database] = process.argv.slice(2)
const extensions = [new SQLite({ database })]
const server = new Server({ port: Number(port), address: "127.0.0.1", quiet: true, extensions })
await server.listen()
