// A Yjs document on the official client. Edits come in as JSON lines, each text the document has had goes out as one.
import { createInterface } from "node:readline"
import { DurableStream, IdempotentProducer } from "@durable-streams/client"
import * as decoding from "lib0/decoding"
import * as encoding from "lib0/encoding"
import * as Y from "yjs"

const [url, live] = process.argv.slice(2)
const doc = new Y.Doc()
const body = doc.getText("body")
const say = (fact) => process.stdout.write(JSON.stringify(fact) + "\n")
const die = (error) => {
  console.error(error)
  process.exit(1)
}

const stream = new DurableStream({ url, contentType: "application/octet-stream" })
await stream.create()
const producer = new IdempotentProducer(stream, `js-${doc.clientID}`, { onError: die })

doc.on("update", (update, origin) => {
  if (origin === stream) return
  const frame = encoding.createEncoder()
  encoding.writeVarUint8Array(frame, update)
  producer.append(encoding.toUint8Array(frame))
})

const response = await stream.stream({ offset: "-1", live })
response.subscribeBytes(({ data }) => {
  const frames = decoding.createDecoder(data)
  while (decoding.hasContent(frames)) Y.applyUpdate(doc, decoding.readVarUint8Array(frames), stream)
  say({ text: body.toString() })
})
response.closed.catch(die)

for await (const line of createInterface({ input: process.stdin })) {
  const { insert, remove } = JSON.parse(line)
  doc.transact(() => {
    if (remove) body.delete(...remove)
    if (insert) body.insert(...insert)
  })
  await producer.flush()
  say({ stored: body.toString() })
}
process.exit(0)
