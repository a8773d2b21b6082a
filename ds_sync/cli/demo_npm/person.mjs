// One person of `ds-sync demo` in a browser: a Yjs document on the official provider, unmodified. Told by JSON lines what to do, answering
// each by one. It is run with --eval, so that its imports are looked for in the working folder.
import { createInterface } from 'node:readline'
import { YjsProvider } from '@durable-streams/y-durable-streams'
import * as Y from 'yjs'

const [baseUrl, docId] = process.argv.slice(1)
const doc = new Y.Doc()
const body = doc.getText('body')
console.error = () => {} // the provider logs every lost connection
const provider = new YjsProvider({ doc, baseUrl, docId, connect: false })
provider.on('error', () => {}) // without a listener it would end the process
const pause = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds))
let begun = false

const until = async (seconds, attempt) => {
  for (const end = Date.now() + seconds * 1000; !(await attempt()); await pause(20)) {
    if (Date.now() > end) throw new Error(`the provider is not synced within ${seconds} s`)
  }
}

const acts = {
  // connect() may give up: try again until it holds.
  connect: async ({ seconds }) => {
    if (begun) await provider.disconnect()
    begun = true
    await until(seconds, async () => {
      await provider.connect()
      return provider.synced
    })
  },
  type: ({ text }) => {
    for (const character of text) body.insert(body.length, character) // one edit a keystroke
  },
  sync: async ({ seconds }) => {
    await provider.flush()
    await until(seconds, () => provider.connected && provider.synced)
  },
  say: () => {}
}

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line)
  await acts[request.do](request)
  process.stdout.write(`${JSON.stringify({ text: body.toString() })}\n`)
}
process.exit(0)
