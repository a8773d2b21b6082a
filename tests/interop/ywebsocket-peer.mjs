// Runs what it is told, line by line, among unmodified y-websocket clients: {"run": "the body of an async function"} is answered by
// {"result": ...} or {"error": "..."}. `open`, `until` and the modules are in scope; `kept` lives from line to line.
import { createHash } from 'node:crypto'
import { EventEmitter } from 'node:events'
import { createInterface } from 'node:readline'
import * as Y from 'yjs'
import WebSocket from 'ws'
import { YjsProvider } from '@durable-streams/y-durable-streams'
import { Awareness } from 'y-protocols/awareness'
import { WebsocketProvider } from 'y-websocket'

EventEmitter.defaultMaxListeners = 1000 // each provider listens for the end of the process
const [base] = process.argv.slice(2)
const kept = {}
const opened = new Set()

/** A document in a room, connected. */
const open = (room, options = {}) => {
  const doc = options.doc ?? new Y.Doc()
  const provider = new WebsocketProvider(base, room, doc, { WebSocketPolyfill: WebSocket, disableBc: true, ...options })
  const client = { doc, provider, awareness: provider.awareness, text: doc.getText('body'), closes: [] }
  provider.on('connection-close', event => client.closes.push(event?.code ?? null))
  opened.add(client)
  return client
}

/** Wait until `what` returns something true, and return it. */
const until = async (what, seconds = 20) => {
  const end = Date.now() + seconds * 1000
  for (;;) {
    const found = await what()
    if (found) return found
    if (Date.now() > end) throw new Error(`not within ${seconds} s: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 5))
  }
}

const sleep = seconds => new Promise(resolve => setTimeout(resolve, seconds * 1000))
const synced = (...clients) => until(() => clients.every(client => client.provider.synced))
const hash = text => createHash('sha256').update(text).digest('hex')

/** All that a document holds, comparable. */
const content = doc => JSON.stringify({
  text: doc.getText('body').toDelta(),
  map: Object.fromEntries(Object.entries(doc.getMap('map').toJSON()).sort()), // its order is that in which the keys arrived
  array: doc.getArray('array').toJSON(),
  xml: doc.getXmlFragment('xml').toString()
})

const same = (...clients) => until(() => new Set(clients.map(client => content(client.doc))).size === 1)

const scope = { Y, WebSocket, WebsocketProvider, YjsProvider, Awareness, base, kept, open, until, sleep, synced, hash, content, same }
const AsyncFunction = (async () => {}).constructor

for await (const line of createInterface({ input: process.stdin })) {
  try {
    const result = await new AsyncFunction(...Object.keys(scope), JSON.parse(line).run)(...Object.values(scope))
    process.stdout.write(`${JSON.stringify({ result: result ?? null })}\n`)
  } catch (error) {
    process.stdout.write(`${JSON.stringify({ error: String(error?.stack ?? error) })}\n`)
  }
}
for (const client of opened) client.provider.destroy()
process.exit(0)
