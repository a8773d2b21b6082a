// A Yjs document on the official provider, unmodified. Orders come in as JSON lines, each is answered by one line.
import { createInterface } from "node:readline"
import { YjsProvider } from "@durable-streams/y-durable-streams"
import { Awareness } from "y-protocols/awareness"
import * as Y from "yjs"

const [baseUrl, docId, liveMode] = process.argv.slice(2)
const doc = new Y.Doc()
const body = doc.getText("body")
const awareness = new Awareness(doc)
console.error = () => {} // it logs every lost connection
const provider = new YjsProvider({ doc, baseUrl, docId, awareness, liveMode, connect: false })
provider.on("error", () => {})
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const until = async (condition, seconds) => {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await pause(10)) if (condition()) return true
  return false
}

const orders = {
  // connect() may give up: try again until it holds.
  connect: async ({ seconds = 20 }) => {
    for (const end = Date.now() + seconds * 1000; Date.now() < end; await pause(100)) {
      await provider.connect()
      if (provider.synced) return true
    }
    return false
  },
  disconnect: () => provider.disconnect().then(() => true),
  type: ({ text }) => {
    body.insert(body.length, text)
    return provider.connected
  },
  remove: ({ at, count }) => body.delete(at, count),
  // A batch of many edits: they leave together.
  types: ({ texts }) => {
    for (const text of texts) body.insert(body.length, text)
    return provider.connected
  },
  put: ({ key, value }) => {
    doc.getMap("fields").set(key, value)
    return provider.connected
  },
  synced: ({ seconds = 20 }) => until(() => provider.connected && provider.synced, seconds),
  flush: () => provider.flush().then(() => true),
  see: ({ text, seconds = 20 }) => until(() => body.toString() === text, seconds),
  text: () => body.toString(),
  // All that peers can differ in; `waits`: something that it was told depends on what it was not told.
  look: () => ({
    body: body.toString(),
    fields: doc.getMap("fields").toJSON(),
    vector: Object.fromEntries(Y.decodeStateVector(Y.encodeStateVector(doc))),
    waits: doc.store.pendingStructs !== null || doc.store.pendingDs !== null,
  }),
  // What docs/how-to/use-the-official-provider.md says about what the provider drops: this document goes on in the wrapper.
  mend: async ({ module, seconds = 40 }) => {
    await provider.disconnect()
    const { OfflineProvider } = await import(module)
    const mending = new OfflineProvider({ doc, baseUrl, docId, liveMode, checkEvery: 50 })
    const saved = await until(() => mending.saved, seconds)
    await mending.destroy()
    return saved
  },
  say: ({ state }) => awareness.setLocalState(state),
  others: () => [...awareness.getStates()].filter(([id]) => id !== doc.clientID).map(([, state]) => state),
  hear: ({ state, seconds = 20 }) =>
    until(() => JSON.stringify(orders.others()).includes(JSON.stringify(state)), seconds),
  alone: ({ seconds = 20 }) => until(() => orders.others().length === 0, seconds),
}

for await (const line of createInterface({ input: process.stdin })) {
  const { order, ...options } = JSON.parse(line)
  const answer = await orders[order](options)
  process.stdout.write(JSON.stringify({ answer: answer ?? null }) + "\n")
}
process.exit(0)
