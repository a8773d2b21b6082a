// Reads a folder of y-leveldb: node leveldb.cjs FOLDER WHERE-THE-PACKAGES-ARE
// A line {"list": true} is answered by {"names": [...]}, {"read": name} by {"update": "base 64"}; or by {"error": "..."}.
const { createRequire } = require('node:module')
const { createInterface } = require('node:readline')
const { join } = require('node:path')

const [folder, modules] = process.argv.slice(2)
const say = answer => process.stdout.write(`${JSON.stringify(answer)}\n`)

// y-leveldb catches what goes wrong, tells the console, and returns null.
let complaint = ''
console.warn = console.error = (...parts) => { complaint = parts.map(part => part?.message ?? part).join(': ') }
const require_ = found => {
  if (found == null) throw new Error(complaint || 'nothing was read')
  return found
}

const load = () => {
  const near = createRequire(createRequire(join(modules, 'package.json')).resolve('y-leveldb'))
  const { LeveldbPersistence } = near('y-leveldb')
  return { Y: near('yjs'), store: new LeveldbPersistence(folder) }
}

let opened
const answer = async ({ list, read }) => {
  opened ??= load()
  if (list) return { names: require_(await opened.store.getAllDocNames()) }
  const doc = require_(await opened.store.getYDoc(read))
  return { update: Buffer.from(opened.Y.encodeStateAsUpdate(doc)).toString('base64') }
}

const main = async () => {
  for await (const line of createInterface({ input: process.stdin })) {
    try {
      say(await answer(JSON.parse(line)))
    } catch (error) {
      const missing = error?.code === 'MODULE_NOT_FOUND'
      const advice = `y-leveldb is not installed near ${modules}: name the server's folder, or run npm install y-leveldb there`
      say({ error: missing ? advice : `y-leveldb: ${error?.message ?? error}` })
    }
  }
  process.exit(0)
}

main()
