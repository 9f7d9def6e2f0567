/** The layout shows the architecture (docs/ARCHITECTURE.md): who may import whom, and what only the outer rooms touch. */

import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { test } from 'node:test';
import { packageRoot } from '../../native/binding.js';

const root = packageRoot();

/** Rooms a room may import from, itself aside. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  'src/base': [],
  'src/runtime': ['src/base', 'native'],
  'src/wire': ['src/base'],
  'src/rpc': ['src/base', 'src/runtime', 'src/wire'],
  'src/dlm': ['src/base', 'src/runtime', 'src/wire'],
  'src/storage': ['src/base', 'src/runtime', 'src/wire'],
  'src/client': ['src/base', 'src/runtime', 'src/wire', 'src/rpc', 'src/dlm'],
  'src/server': ['src/base', 'src/runtime', 'src/wire', 'src/rpc', 'src/dlm', 'src/storage'],
  'src/fuse': ['src/base', 'src/runtime'],
  'src/vfs': ['src/base', 'src/runtime', 'src/client', 'src/fuse', 'src/wire'],
  native: ['src/base'],
  mount: ['src/base', 'src/runtime', 'src/fuse', 'native'],
  'src/cli': [
    'src/base',
    'src/runtime',
    'src/wire',
    'src/rpc',
    'src/client',
    'src/server',
    'src/storage',
    'src/vfs',
    'mount',
    'native',
  ],
};

/** Files that may use timers, clocks, sockets, files and the addon directly. */
function touchesTheWorld(file: string): boolean {
  return (
    /^src\/runtime\/node_\w+\.ts$/.test(file) ||
    file === 'src/storage/meta/lmdb_store.ts' ||
    /^(mount|native|src\/cli)\//.test(file)
  );
}

const BANNED = [
  /\bset(?:Timeout|Interval|Immediate)\(/,
  /\bDate\.now\(|\bnew Date\(/,
  /\bMath\.random\(/,
  /\bperformance\.now\(/,
  /\bprocess\.(?!nextTick\b)\w+/,
  /from 'node:(?!buffer|util)\w+/,
];

function sources(): string[] {
  const found: string[] = [];
  const walk = (folder: string): void => {
    for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
      const path = join(folder, entry.name);
      if (entry.isDirectory() && entry.name !== 'build' && entry.name !== 'node_modules') walk(path);
      else if (entry.name.endsWith('.ts')) found.push(path);
    }
  };
  for (const folder of ['src', 'mount', 'native']) walk(folder);
  return found;
}

function roomOf(file: string): string {
  return file.startsWith('src/') ? file.split('/').slice(0, 2).join('/') : (file.split('/')[0] ?? '');
}

/** Source without comments, so that prose may name what code may not use. */
function codeOf(file: string): string {
  return readFileSync(join(root, file), 'utf8')
    .replace(/\/\*[\s\S]*?\*\//g, '')
    .replace(/^\s*\/\/.*$/gm, '')
    .replace(/\s\/\/ .*$/gm, '');
}

test('rooms import only from the rooms before them', () => {
  const wrong: string[] = [];
  for (const file of sources()) {
    const room = roomOf(file);
    for (const [, target = ''] of codeOf(file).matchAll(/(?:from|import)\s*\(?'(\.[^']*)'/g)) {
      const other = roomOf(relative(root, join(root, dirname(file), target)));
      if (other !== room && MAY_IMPORT[room]?.includes(other) !== true)
        wrong.push(`${file} imports ${target}`);
      const realPort = /runtime\/node_/.test(target) && !touchesTheWorld(file);
      if (realPort) wrong.push(`${file} imports the real port ${target}`);
    }
  }
  assert.deepEqual(wrong, []);
});

test('inner rooms take time, chance, sockets and files from the runtime only', () => {
  const wrong: string[] = [];
  for (const file of sources()) {
    if (touchesTheWorld(file)) continue;
    const code = codeOf(file);
    for (const banned of BANNED) {
      const found = banned.exec(code);
      if (found !== null) wrong.push(`${file} uses ${found[0]}`);
    }
  }
  assert.deepEqual(wrong, []);
});

test('links between the pages of the documentation lead somewhere', () => {
  const pages = ['README.md', ...readdirSync(join(root, 'docs')).map((name) => join('docs', name))];
  const dead: string[] = [];
  for (const page of pages.filter((name) => name.endsWith('.md'))) {
    const text = readFileSync(join(root, page), 'utf8');
    for (const [, target = ''] of text.matchAll(/\]\(([^)#:]+)(?:#[^)]*)?\)/g)) {
      if (!existsSync(join(root, dirname(page), target))) dead.push(`${page} -> ${target}`);
    }
  }
  assert.deepEqual(dead, []);
});

test('pages named in comments exist', () => {
  const missing = new Set<string>();
  for (const file of sources()) {
    for (const [page] of readFileSync(join(root, file), 'utf8').matchAll(/docs\/[A-Z]+\.md/g)) {
      if (!existsSync(join(root, page))) missing.add(`${file} names ${page}`);
    }
  }
  assert.deepEqual([...missing], []);
});
