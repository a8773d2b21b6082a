// A Yjs document on examples/offline_provider.js. Orders come in as JSON lines, each is answered by one line.
import { createInterface } from "node:readline"
import { Awareness } from "y-protocols/awareness"
import * as Y from "yjs"
import { OfflineProvider } from "./offline_provider.js"

const [baseUrl, docId, liveMode, checkEvery] = process.argv.slice(2)
const doc = new Y.Doc()
const body = doc.getText("body")
console.error = () => {} // the official provider logs every lost connection
const headers = { "x-asked": async () => "each time" }
const sent = new Set()
const told = []
const { fetch } = globalThis
globalThis.fetch = async (url, options) => {
  const response = await fetch(url, options)
  if (options?.cache !== "no-store") return response
  sent.add(options.headers["x-asked"]) // the wrapper's own requests
  told.push(response.status)
  return response
}
const awareness = new Awareness(doc)
awareness.setLocalState({ name: "the page" })
const provider = new OfflineProvider({ doc, baseUrl, docId, awareness, liveMode, connect: false, checkEvery: Number(checkEvery), headers })
const until = async (condition, seconds) => {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; ) {
    if (condition()) return true
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  return false
}

const orders = {
  connect: () => provider.connect(),
  disconnect: () => provider.disconnect(),
  type: ({ text }) => body.insert(body.length, text),
  remove: ({ at, count }) => body.delete(at, count),
  saved: ({ seconds = 20 }) => until(() => provider.saved, seconds),
  // Check now, and not only when checkEvery is over; return when the server has said this, and that check is over.
  look: async ({ status, seconds = 20 }) => {
    const [before, { wake }] = [told.length, provider]
    const looks = setInterval(() => provider.wake?.(), 200)
    return until(() => told.includes(status, before) && provider.wake !== wake, seconds).finally(() => clearInterval(looks))
  },
  is_saved: () => provider.saved,
  sent: () => [...sent],
  deleted: ({ seconds = 20 }) => until(() => provider.deleted, seconds),
  see: ({ text, seconds = 20 }) => until(() => body.toString() === text, seconds),
  text: () => body.toString(),
  // Wait until the page is there, and sees one more.
  company: ({ seconds = 20 }) => until(() => awareness.getLocalState() && awareness.getStates().size === 2, seconds),
  destroy: () => provider.destroy(),
}

for await (const line of createInterface({ input: process.stdin })) {
  const { order, ...options } = JSON.parse(line)
  const answer = await orders[order](options)
  process.stdout.write(JSON.stringify({ answer: answer ?? null }) + "\n")
}
process.exit(0)
