// Makes ds_sync/server/pages/web/demo.js, and beside it the licences of what is in it. The versions are those of package-lock.json, so the same
// sources give the same bytes: `npm ci && npm run build`. The first line says of which sources; a test looks whether it is still true.
import { createHash } from "node:crypto"
import { readFileSync, readdirSync, writeFileSync } from "node:fs"
import { build } from "esbuild"

const SOURCES = ["build.js", "device.js", "editor.js", "package-lock.json", "server_copy.js"]
const WEB = new URL("../../ds_sync/server/pages/web/", import.meta.url)

const hash = createHash("sha256")
for (const file of SOURCES) hash.update(readFileSync(new URL(file, import.meta.url)))

const { metafile, outputFiles } = await build({
  entryPoints: ["editor.js"],
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none",
  charset: "utf8",
  metafile: true,
  write: false,
  outdir: "out",
  banner: { js: `// Built from examples/editor, sha256 ${hash.digest("hex")}. Licences: /demo/licenses.txt` },
})
writeFileSync(new URL("demo.js", WEB), outputFiles[0].contents)

const packages = new Set()
for (const file of Object.keys(metafile.inputs)) {
  const found = /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(file)
  if (found) packages.add(found[1])
}
const texts = [...packages].sort().map((name) => {
  const folder = `node_modules/${name}`
  const { version, license } = JSON.parse(readFileSync(`${folder}/package.json`, "utf8"))
  const file = readdirSync(folder).find((entry) => /^licen[sc]e/i.test(entry))
  if (!file) throw new Error(`${name} brings no licence`)
  return `${name} ${version} (${license})\n\n${readFileSync(`${folder}/${file}`, "utf8").trim()}\n`
})
writeFileSync(new URL("demo.licenses.txt", WEB), `demo.js holds these packages, each under its licence.\n\n${texts.join(`\n${"-".repeat(80)}\n\n`)}`)
