import { runConformanceTests } from "@durable-streams/server-conformance-tests"

// The package's own command finds no tests when it is installed under node_modules; this file stands outside.
const baseUrl = process.env.DS_SYNC_SERVER_URL
if (!baseUrl) throw new Error("DS_SYNC_SERVER_URL is not set")

runConformanceTests({ baseUrl, subscriptions: true })
