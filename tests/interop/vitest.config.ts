import { defineConfig } from "vitest/config"

export default defineConfig({ test: { include: ["server-suite.test.ts"], testTimeout: 30000, hookTimeout: 30000 } })
