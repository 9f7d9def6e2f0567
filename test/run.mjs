#!/usr/bin/env node
/**
 * Runs compiled test files under node's test runner and ends with its summary. HELP says how it is called.
 * Files are named one by one: `node --test FOLDER` would run helpers as tests. Suites on real mounts run one file at a
 * time, but for files that wait for most of their time, which run beside them; before them the others run side by side. There is
 * one summary of all.
 */

import { existsSync, readdirSync, statfsSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { Readable } from 'node:stream';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import quiet from './quiet_reporter.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const SUITES = ['unit', 'contract', 'sim', 'mount', 'ops', 'interop'];
/** Real mounts and devices. */
const ONE_BY_ONE = ['mount', 'ops', 'interop'];
/** Of these: it waits for most of its minutes, for a link that is down. What computes beside a mount test costs it as much time as it saves. */
const BESIDE = ['mount/network.test.js'];
/** Before the others of their turn: they have the longest files, and a processor has nothing to do while the last file runs. */
const FIRST = ['sim', 'contract'];
const HELP = `usage: node test/run.mjs [SUITE ...] [--only TEXT] [--verbose]
  SUITE      ${SUITES.join(', ')}; without one, all of them
  --only     only test files whose path in the suite contains TEXT
  --verbose  names every test; otherwise a line for each file, failures and a summary`;

function parse() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: { only: { type: 'string' }, verbose: { type: 'boolean' }, help: { type: 'boolean' } },
    });
  } catch (error) {
    return { problem: error.message };
  }
}
const { values: { only, verbose, help } = {}, positionals: named = [], problem } = parse();
if (help) {
  console.log(HELP);
  process.exit(0);
}
const unknown = named
  .filter((name) => !SUITES.includes(name))
  .map((name) => `there is no suite "${name}"`)[0];
if (problem !== undefined || unknown !== undefined) {
  console.error(`${problem ?? unknown}\n${HELP}`);
  process.exit(2);
}
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

// Tests in one process wait for fdatasync more than for anything else, so their files lie in memory if it has room (a container
// may have 64 MiB there). The mounts have real disks below them.
const MEMORY = '/dev/shm';
const MEMORY_BYTES = 2 ** 31;

function memoryHasRoom() {
  if (!existsSync(MEMORY)) return false;
  const { bavail, bsize } = statfsSync(MEMORY);
  return bavail * bsize >= MEMORY_BYTES;
}

const compiled = join(root, 'dist', 'test');
const oneByOne = filesOf(suites.filter((suite) => ONE_BY_ONE.includes(suite)));
const isBeside = (file) => BESIDE.includes(relative(compiled, file));

/** One after the other; those of one turn at the same time. */
const turns = [
  [
    {
      files: filesOf([
        ...FIRST.filter((suite) => suites.includes(suite)),
        ...suites.filter((suite) => !ONE_BY_ONE.includes(suite) && !FIRST.includes(suite)),
      ]),
      concurrency: availableParallelism(),
      temporary: process.env.TMPDIR ?? (memoryHasRoom() ? MEMORY : tmpdir()),
    },
  ],
  [
    { files: oneByOne.filter((file) => !isBeside(file)), concurrency: 1, temporary: tmpdir() },
    { files: oneByOne.filter(isBeside), concurrency: 1, temporary: tmpdir() },
  ],
]
  .map((turn) => turn.filter(({ files }) => files.length > 0))
  .filter((turn) => turn.length > 0);
if (turns.length === 0) {
  console.error('no test file matches');
  process.exit(1);
}

/** The events of all runs, turn by turn, with the sums of their summaries at the end. */
async function* events() {
  const sums = new Map();
  const began = performance.now();
  for (const turn of turns) {
    process.env.TMPDIR = turn[0].temporary;
    const streams = turn.map(({ files, concurrency }) =>
      run({ files, concurrency, timeout: FILE_TIMEOUT_MS }),
    );
    // A stream keeps its events until they are read, so that the lines of two files do not mix.
    for (const stream of streams) {
      for await (const event of stream) {
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
  }
  // Runs at the same time would count twice.
  sums.set('duration_ms', performance.now() - began);
  for (const [what, sum] of sums) {
    yield { type: 'test:diagnostic', data: { nesting: 0, message: `${what} ${sum}` } };
  }
}

process.chdir(root);
const reporter = verbose ? new spec() : quiet;
Readable.from(events()).compose(reporter).pipe(process.stdout);
