#!/usr/bin/env node
/**
 * Runs compiled test files under node's test runner and ends with its summary.
 *   node test/run.mjs [unit|contract|sim|mount|ops|interop ...] [--only TEXT] [--verbose]
 * Prints a line for each file, failures and a summary; --verbose names every test.
 * Files are named one by one: `node --test FOLDER` would run helpers as tests. Suites on real mounts run one file at a
 * time, the others in parallel, in one run with one summary.
 */

import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const SUITES = ['unit', 'contract', 'sim', 'mount', 'ops', 'interop'];
/** Real mounts and devices. */
const ONE_BY_ONE = ['mount', 'ops', 'interop'];
const args = process.argv.slice(2);
const onlyAt = args.indexOf('--only');
const only = onlyAt >= 0 ? args[onlyAt + 1] : undefined;
const named = args.filter((arg) => SUITES.includes(arg));
const suites = named.length > 0 ? named : SUITES;

const files = suites.flatMap((suite) => {
  const folder = join(root, 'dist', 'test', suite);
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((name) => name.endsWith('.test.js') && (only === undefined || name.includes(only)))
    .sort()
    .map((name) => join(folder, name));
});
if (files.length === 0) {
  console.error('no test file matches');
  process.exit(1);
}
// Of one file: a test that spins cannot end itself, the runner ends its process.
const FILE_TIMEOUT_MS = 900_000;
const concurrency = suites.some((suite) => ONE_BY_ONE.includes(suite)) ? 1 : availableParallelism();
const run = spawnSync(
  process.execPath,
  [
    '--test',
    `--test-timeout=${FILE_TIMEOUT_MS}`,
    `--test-concurrency=${concurrency}`,
    args.includes('--verbose')
      ? '--test-reporter=spec'
      : `--test-reporter=${join(root, 'test', 'quiet_reporter.mjs')}`,
    '--test-reporter-destination=stdout',
    ...files,
  ],
  { stdio: 'inherit', cwd: root },
);
process.exit(run.status ?? 1);
