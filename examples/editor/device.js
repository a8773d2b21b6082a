// A Y.Doc's updates in this browser (IndexedDB), with the moment at which each is on the disk: y-indexeddb does not tell.
//
//   const device = new DeviceStore("notes/today", doc)
//   device.onsaved = (saved) => { indicator.textContent = saved ? "saved on this device" : "saving" }
//   await device.loaded
import * as Y from "yjs"

const FOLD_ABOVE = 200 // updates, at opening

export class DeviceStore {
  constructor(name, doc) {
    this.doc = doc
    this.saved = false
    this.onsaved = () => {}
    this.waiting = 0 // transactions under way
    this.behind = false // something could not be stored: the next transaction stores everything
    this.database = open(name)
    this.loaded = this.load()
    doc.on("update", (update, origin) => origin === this || this.store(update))
  }

  async load() {
    try {
      const updates = await run(await this.database, (store, done) => {
        store.getAll().onsuccess = ({ target: { result: updates } }) => {
          // In one transaction: another tab of this browser may be writing.
          if (updates.length > FOLD_ABOVE) store.clear().onsuccess = () => store.add(Y.mergeUpdates(updates))
          done(updates)
        }
      })
      Y.transact(this.doc, () => updates.forEach((update) => Y.applyUpdate(this.doc, update, this)), this)
      this.tell()
    } catch (error) {
      this.fail(error)
    }
  }

  async store(update) {
    this.waiting += 1
    this.tell()
    try {
      const database = await this.database
      const bytes = this.behind ? Y.encodeStateAsUpdate(this.doc) : update
      await run(database, (store, done) => done(store.add(bytes)))
      this.behind &&= bytes === update
    } catch (error) {
      this.fail(error)
    } finally {
      this.waiting -= 1
      this.tell()
    }
  }

  // A full disk may get space again; what a private window forbids stays forbidden.
  fail(error) {
    console.warn("this browser does not store the document:", error)
    if (!this.behind) setTimeout(() => this.store(Y.encodeStateAsUpdate(this.doc)), 5000)
    this.behind = true
  }

  tell() {
    const saved = !this.waiting && !this.behind
    if (this.saved !== saved) this.onsaved((this.saved = saved))
  }
}

function open(name) {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(`ds-sync/${name}`, 1)
    request.onupgradeneeded = () => request.result.createObjectStore("updates", { autoIncrement: true })
    request.onsuccess = () => resolve(request.result)
    request.onerror = () => reject(request.error)
  })
}

// Work on the store in one transaction; return what `work` gave to `done`, when it is on the disk.
function run(database, work) {
  return new Promise((resolve, reject) => {
    let result
    const transaction = database.transaction("updates", "readwrite", { durability: "strict" })
    transaction.oncomplete = () => resolve(result)
    transaction.onabort = transaction.onerror = () => reject(transaction.error)
    work(transaction.objectStore("updates"), (value) => (result = value))
  })
}
