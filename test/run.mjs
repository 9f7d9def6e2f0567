#!/usr/bin/env node
/**
 * Runs compiled test files under node's test runner and ends with its summary.
 *   node test/run.mjs [unit|contract|sim|mount|ops|interop ...] [--only TEXT] [--verbose]
 * --only: test files whose path in the suite contains TEXT.
 * Prints a line for each file, failures and a summary; --verbose names every test.
 * Files are named one by one: `node --test FOLDER` would run helpers as tests. Suites on real mounts run one file at a
 * time; before them the others run side by side. There is one summary of all.
 */

import { readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { fileURLToPath } from 'node:url';
import quiet from './quiet_reporter.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const SUITES = ['unit', 'contract', 'sim', 'mount', 'ops', 'interop'];
/** Real mounts and devices. */
const ONE_BY_ONE = ['mount', 'ops', 'interop'];
const args = process.argv.slice(2);
const onlyAt = args.indexOf('--only');
const only = onlyAt >= 0 ? args[onlyAt + 1] : undefined;
const named = args.filter((arg) => SUITES.includes(arg));
const suites = named.length > 0 ? named : SUITES;

// Of one file: a test that spins cannot end itself, the runner ends its process.
const FILE_TIMEOUT_MS = 900_000;

/** @returns the files of these suites. */
function filesOf(wanted) {
  // Sources are listed, not what is compiled: dist keeps tests that have moved or are gone.
  return wanted.flatMap((suite) =>
    readdirSync(join(root, 'test', suite), { recursive: true })
      .filter((name) => name.endsWith('.test.ts') && (only === undefined || name.includes(only)))
      .sort()
      .map((name) => join(root, 'dist', 'test', suite, name.replace(/ts$/, 'js'))),
  );
}

const runs = [
  {
    files: filesOf(suites.filter((suite) => !ONE_BY_ONE.includes(suite))),
    concurrency: availableParallelism(),
  },
  { files: filesOf(suites.filter((suite) => ONE_BY_ONE.includes(suite))), concurrency: 1 },
].filter(({ files }) => files.length > 0);
if (runs.length === 0) {
  console.error('no test file matches');
  process.exit(1);
}

/** The events of all runs, one after the other, with the sums of their summaries at the end. */
async function* events() {
  const sums = new Map();
  for (const { files, concurrency } of runs) {
    for await (const event of run({ files, concurrency, timeout: FILE_TIMEOUT_MS })) {
      const { type, data } = event;
      const summed = type === 'test:diagnostic' && data.nesting === 0 && data.file === undefined;
      const [, what, count] = (summed && /^(\w+) ([\d.]+)$/.exec(data.message)) || [];
      if (what !== undefined) {
        sums.set(what, (sums.get(what) ?? 0) + Number(count));
        continue;
      }
      if (type === 'test:fail' && data.todo === undefined) process.exitCode = 1;
      yield event;
    }
  }
  for (const [what, sum] of sums) {
    yield { type: 'test:diagnostic', data: { nesting: 0, message: `${what} ${sum}` } };
  }
}

process.chdir(root);
const reporter = args.includes('--verbose') ? new spec() : quiet;
Readable.from(events()).compose(reporter).pipe(process.stdout);
