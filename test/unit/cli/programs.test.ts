/**
 * The programs that users run, dist/bin: how many files a process loads until it works, and what its stack traces name.
 * Each file more costs a start processor time (docs/MEASURED.md); a forgotten import brings back whole packages.
 */

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { type TestContext, test } from 'node:test';
import { packageRoot } from '../../../native/binding.js';
import { installAs } from '../../../src/cli/demo/tree.js';
import { installedVersion } from '../../../src/cli/installed.js';
import { thisTree } from '../../fixtures/installed_tree.js';

const MARK = 'loaded files: ';
/** Runs before the program, and writes the files that it has loaded: by its end, and at SIGUSR2. */
const COUNTER = [
  "data:text/javascript,import Module from 'node:module';",
  `const say = () => process.stderr.write('${MARK}' + JSON.stringify(Object.keys(Module._cache)) + '\\n');`,
  "process.on('exit', say); process.on('SIGUSR2', say);",
].join('');

interface Loaded {
  /** Within this tree. */
  readonly ours: readonly string[];
  readonly packages: readonly string[];
}

function folderOf(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-programs-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** @param until what the program writes at the end of its start, if it does not end then. */
async function loadedBy(t: TestContext, args: readonly string[], until?: RegExp): Promise<Loaded> {
  const folder = folderOf(t);
  const child = spawn(process.execPath, ['--import', COUNTER, thisTree().main, ...args], {
    env: { ...process.env, HOLDFAST_RUNTIME_DIR: join(folder, 'run') },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  let isAsked = false;
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text;
      if (output.includes(MARK)) child.kill('SIGTERM');
      else if (!isAsked && until?.test(output)) isAsked = child.kill('SIGUSR2');
    });
  }
  await new Promise((resolve) => child.once('close', resolve));
  const line = output.split('\n').find((text) => text.startsWith(MARK));
  assert.ok(line !== undefined, output);
  const files = (JSON.parse(line.slice(MARK.length)) as string[]).map((path) =>
    relative(packageRoot(), path),
  );
  const packages = files.flatMap((path) => /^.*node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1] ?? []);
  return {
    ours: files.filter((path) => !path.includes('node_modules')).sort(),
    packages: [...new Set(packages)].sort(),
  };
}

/** Its sockets carry connections. */
const ADDON = 'native/build/Release/holdfast_native.node';

/** Where msgpackr finds its native part. */
const EXTRACT = ['@msgpackr-extract/msgpackr-extract-linux-x64', 'detect-libc', 'msgpackr-extract'];

/** The platform's name is part of a package's. */
function anyPlatform({ ours, packages }: Loaded): Loaded {
  return { ours, packages: packages.map((name) => name.replace(/-linux-\w+$/, '-linux-x64')).sort() };
}

test('--version and --help load one file', async (t) => {
  const one = { ours: ['dist/bin/main.js'], packages: [] };
  assert.deepEqual([await loadedBy(t, ['--version']), await loadedBy(t, ['--help'])], [one, one]);
});

test('status loads no file of server, client or store', async (t) => {
  const loaded = await loadedBy(t, ['status', '127.0.0.1:1']);
  assert.deepEqual(anyPlatform(loaded), {
    ours: ['dist/bin/main.js', ADDON],
    packages: [...EXTRACT, 'node-gyp-build-optional-packages'],
  });
});

test('mount loads two files until it connects, serve as many and lmdb', async (t) => {
  const mountpoint = join(folderOf(t), 'm');
  mkdirSync(mountpoint);
  const mount = await loadedBy(t, ['mount', '127.0.0.1:1', mountpoint, '--foreground'], /tries again/);
  const serve = await loadedBy(t, ['serve', '--meta', '/nowhere/meta', '--data', '/nowhere/data']);
  assert.deepEqual(
    [anyPlatform(mount), anyPlatform(serve)],
    [
      {
        ours: ['dist/bin/main.js', 'dist/bin/mount_run.js', ADDON],
        packages: [...EXTRACT, 'node-gyp-build-optional-packages'],
      },
      {
        ours: ['dist/bin/main.js', 'dist/bin/serve_run.js', ADDON],
        packages: [
          '@harperfast/extended-iterable',
          '@lmdb/lmdb-linux-x64',
          ...EXTRACT,
          'lmdb',
          'msgpackr',
          'node-gyp-build-optional-packages',
          'ordered-binary',
          'weak-lru-cache',
        ].sort(),
      },
    ],
  );
});

function stackOf(main: string): Promise<string> {
  return new Promise((resolve) => {
    const child = spawn(
      process.execPath,
      [main, 'serve', '--meta', '/nowhere/meta', '--data', '/nowhere/data'],
      {
        env: { ...process.env, DEBUG: 'holdfast:none' },
        stdio: ['ignore', 'ignore', 'pipe'],
      },
    );
    let text = '';
    child.stderr.setEncoding('utf8').on('data', (more: string) => {
      text += more;
    });
    child.once('close', () => resolve(text));
  });
}

test('a stack names the sources, unless the map is missing or damaged', async (t) => {
  const inSource = /at async serve \(\S+\/src\/cli\/serve_run\.ts:\d+:\d+\)/;
  const inBundle = /at async serve \(\S+\/dist\/bin\/serve_run\.js:\d+:\d+\)/;
  assert.match(await stackOf(thisTree().main), inSource);
  // A copy of the tree, with the packages of this one.
  const main = installAs(installedVersion(), join(folderOf(t), 'tree'));
  assert.match(await stackOf(main), inSource);
  const map = join(main, '..', 'serve_run.js.map');
  writeFileSync(map, 'no map');
  assert.match(await stackOf(main), inBundle);
  rmSync(map);
  assert.match(await stackOf(main), inBundle);
});

test('a stack does not use a map that came after the process', (t) => {
  const folder = folderOf(t);
  const file = join(folder, 'made.js');
  writeFileSync(join(folder, 'package.json'), '{ "type": "commonjs" }');
  writeFileSync(file, 'module.exports = new Error("made").stack;');
  const map = JSON.stringify({ version: 3, sources: ['source.ts'], names: [], mappings: 'AAAA' });
  writeFileSync(`${file}.map`, map);
  const traces = new URL('../../../src/cli/stack_traces.js', import.meta.url).href;
  const script = `
    const { writeFileSync } = await import('node:fs');
    const { createRequire } = await import('node:module');
    (await import(${JSON.stringify(traces)})).nameSourcesInStacks();
    if (process.argv[1] === 'replaced') writeFileSync('${file}.map', ${JSON.stringify(map)});
    process.stdout.write(createRequire('${file}')('${file}'));`;
  const [before, after] = ['kept', 'replaced'].map((what) =>
    execFileSync(process.execPath, ['--input-type=module', '-e', script, what], { encoding: 'utf8' }),
  );
  assert.match(before ?? '', /source\.ts:1:/);
  assert.match(after ?? '', /made\.js:1:/);
});
