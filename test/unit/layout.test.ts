/** The layout shows the architecture (docs/ARCHITECTURE.md): who may import whom, and what only the outer rooms touch. */

import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
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
  // Of wire and storage single files: see ONLY_FILES.
  'src/rules': ['src/base', 'src/wire', 'src/storage'],
  'src/client': ['src/base', 'src/runtime', 'src/wire', 'src/rpc', 'src/dlm', 'src/rules'],
  'src/server': ['src/base', 'src/runtime', 'src/wire', 'src/rpc', 'src/dlm', 'src/storage', 'src/rules'],
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

/** Files a room may import from, where that is not the whole of another room. */
const ONLY_FILES: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>> = {
  // Rules are pure: types of the store, and constants of the wire (a wire message says what its values are).
  'src/rules': { 'src/storage': ['src/storage/api.ts'], 'src/wire': ['src/wire/meta.ts'] },
};

/**
 * Rooms with sub-rooms: a folder, or a file of the room that all may know. What each may import from, itself aside.
 * 'rest': the other files of the room.
 */
const SUB_ROOMS: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>> = {
  'src/client': {
    api: [],
    session: ['api'],
    cache: ['api', 'session'],
    io: ['api', 'session', 'cache'],
    operations: ['api', 'session', 'cache', 'io'],
    lifecycle: ['api', 'session', 'cache', 'io'],
    rest: ['api', 'session', 'cache', 'io', 'operations', 'lifecycle'],
  },
  'src/server': {
    access: [],
    export: ['access'],
    target: ['access', 'export'],
    lifecycle: ['access', 'export', 'target'],
    session: ['access', 'export', 'target', 'lifecycle'],
    operations: ['access', 'export', 'target', 'lifecycle', 'session'],
    rest: ['access', 'export', 'target', 'lifecycle', 'session', 'operations'],
  },
  'src/storage': {
    meta_medium: [],
    api: ['meta_medium'],
    format: ['meta_medium', 'api'],
    meta: ['meta_medium', 'api', 'format'],
    data: ['api', 'format', 'meta'],
    ownership: ['meta_medium', 'api', 'format', 'meta'],
    fsck: ['meta_medium', 'api', 'format', 'meta', 'data', 'ownership'],
    rest: ['meta_medium', 'api', 'format', 'meta', 'data', 'ownership', 'fsck'],
  },
  mount: { rest: [], native: ['rest'], fuse_native: ['rest'] },
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

function pages(): string[] {
  return ['.', 'docs', 'docs/start', 'docs/recovery']
    .flatMap((folder) => readdirSync(join(root, folder)).map((name) => join(folder, name)))
    .filter((name) => name.endsWith('.md'));
}

function roomOf(file: string): string {
  return file.startsWith('src/') ? file.split('/').slice(0, 2).join('/') : (file.split('/')[0] ?? '');
}

/** Of a file in a room with sub-rooms; of a new folder its name, which may be imported by nobody. */
function subRoomOf(file: string, room: string): string {
  const [name = '', ...inside] = file.slice(room.length + 1).split('/');
  if (inside.length > 0) return name;
  const alone = name.replace(/\.ts$/, '');
  return SUB_ROOMS[room]?.[alone] === undefined ? 'rest' : alone;
}

/** Source without comments, so that prose may name what code may not use. */
function codeOf(file: string): string {
  return readFileSync(join(root, file), 'utf8')
    .replace(/\/\*[\s\S]*?\*\//g, '')
    .replace(/^\s*\/\/.*$/gm, '')
    .replace(/\s\/\/ .*$/gm, '');
}

/** Our files that a file imports: statically, dynamically, or only types of. */
function importsOf(file: string): string[] {
  return [...codeOf(file).matchAll(/(?:from|import)\s*\(?\s*'(\.[^']*)'/g)].map(([, target = '']) =>
    join(dirname(file), target).replace(/\.js$/, '.ts'),
  );
}

/** The first way that leads from a file back to itself. */
function circleIn(imports: ReadonlyMap<string, readonly string[]>): readonly string[] {
  const over = new Set<string>();
  const way: string[] = [];
  const circleFrom = (file: string): readonly string[] => {
    const at = way.indexOf(file);
    if (at >= 0) return [...way.slice(at), file];
    if (over.has(file)) return [];
    way.push(file);
    for (const other of imports.get(file) ?? []) {
      const circle = circleFrom(other);
      if (circle.length > 0) return circle;
    }
    way.pop();
    over.add(file);
    return [];
  };
  for (const file of imports.keys()) {
    const circle = circleFrom(file);
    if (circle.length > 0) return circle;
  }
  return [];
}

test('rooms import only from the rooms before them', () => {
  const wrong: string[] = [];
  for (const file of sources()) {
    const room = roomOf(file);
    for (const target of importsOf(file)) {
      const other = roomOf(target);
      if (other !== room && MAY_IMPORT[room]?.includes(other) !== true)
        wrong.push(`${file} imports ${target}`);
      const files = ONLY_FILES[room]?.[other];
      if (files !== undefined && !files.includes(target)) wrong.push(`${file} imports ${target}`);
      const realPort = /runtime\/node_/.test(target) && !touchesTheWorld(file);
      if (realPort) wrong.push(`${file} imports the real port ${target}`);
    }
  }
  assert.deepEqual(wrong, []);
});

test('inside a room, sub-rooms import only from those before them', () => {
  const wrong: string[] = [];
  for (const file of sources()) {
    const room = roomOf(file);
    const subRooms = SUB_ROOMS[room];
    if (subRooms === undefined) continue;
    const own = subRoomOf(file, room);
    if (subRooms[own] === undefined) wrong.push(`${file} is in no sub-room`);
    for (const target of importsOf(file)) {
      if (roomOf(target) !== room) continue;
      const other = subRoomOf(target, room);
      if (other !== own && subRooms[own]?.includes(other) !== true) wrong.push(`${file} imports ${target}`);
    }
  }
  assert.deepEqual(wrong, []);
});

test('files import each other in no circle, type imports counted', () => {
  const files = sources();
  assert.deepEqual(circleIn(new Map(files.map((file) => [file, importsOf(file)]))), []);
});

test('what works for a process waits through a lifetime: it cannot go on after an eviction as if nothing had happened', () => {
  const wrong: string[] = [];
  for (const file of sources()) {
    if (!/^src\/client\/(?:operations|io)\//.test(file)) continue;
    for (const [found] of codeOf(file).matchAll(/\bawait\b[^\n]{0,60}/g)) {
      if (!/^await (?:\w+\.)*(?:life|session|cover|serving|ACROSS_SESSIONS)\.wait\(/.test(found)) {
        wrong.push(`${file}: ${found}`);
      }
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
  const dead: string[] = [];
  for (const page of pages()) {
    const text = readFileSync(join(root, page), 'utf8');
    for (const [, target = ''] of text.matchAll(/\]\(([^)#:]+)(?:#[^)]*)?\)/g)) {
      if (!existsSync(join(root, dirname(page), target))) dead.push(`${page} -> ${target}`);
    }
  }
  assert.deepEqual(dead, []);
});

test('source files named in the documentation exist', () => {
  const missing: string[] = [];
  for (const page of pages()) {
    const text = readFileSync(join(root, page), 'utf8');
    for (const [file] of text.matchAll(
      /(?<![\w./-])(?:src|test|mount|native)\/[\w./]+\.(?:ts|cc|mjs|py)\b/g,
    )) {
      if (!existsSync(join(root, file))) missing.push(`${page} names ${file}`);
    }
  }
  assert.deepEqual(missing, []);
});

test('functions and methods that the walks of ARCHITECTURE.md name are in their files', () => {
  const missing: string[] = [];
  const text = readFileSync(join(root, 'docs', 'ARCHITECTURE.md'), 'utf8');
  const steps = [...text.matchAll(/`(\w+)(?:\.(\w+))?` \((src\/[\w/]+\.ts)\)/g)];
  for (const [step, name = '', member, file = ''] of steps) {
    const code = codeOf(file);
    const isThere = new RegExp(`(?:class|interface|function) ${name}\\b`).test(code);
    const hasMember = member === undefined || new RegExp(`^  (?:async |\\*)?${member}[(<]`, 'm').test(code);
    if (!isThere || !hasMember) missing.push(step);
  }
  assert.deepEqual([missing, steps.length > 40], [[], true]);
});

test('docs/TESTING.md names every test file, and no other', () => {
  const text = readFileSync(join(root, 'docs', 'TESTING.md'), 'utf8');
  const suites = ['unit', 'contract', 'sim', 'mount', 'ops', 'interop'];
  const there = suites.flatMap((suite) =>
    (readdirSync(join(root, 'test', suite), { recursive: true }) as string[])
      .filter((name) => name.endsWith('.test.ts'))
      .map((name) => `${suite}/${name.replace(/\.test\.ts$/, '')}`),
  );
  const rows = text.split('\n').filter((line) => line.startsWith('| ') && line.split('|').length === 4);
  const named = rows.flatMap(
    (row) => row.split('|')[2]?.match(/\b(?:unit|contract|sim|mount|ops|interop)\/\w[\w/]*/g) ?? [],
  );
  assert.deepEqual([...new Set(named)].sort(), there.sort());
});

test('pages named in comments exist', () => {
  const missing = new Set<string>();
  for (const file of sources()) {
    for (const [page] of readFileSync(join(root, file), 'utf8').matchAll(
      /docs\/(?:[A-Z]+|recovery\/\w+)\.md/g,
    )) {
      if (!existsSync(join(root, page))) missing.add(`${file} names ${page}`);
    }
  }
  assert.deepEqual([...missing], []);
});

test('source files named in comments exist', () => {
  const names = new Set(sources().map((file) => file.slice(file.lastIndexOf('/') + 1)));
  for (const folder of ['native', 'test']) {
    for (const path of readdirSync(join(root, folder), { recursive: true }) as string[]) {
      names.add(path.slice(path.lastIndexOf('/') + 1));
    }
  }
  const missing = new Set<string>();
  for (const file of sources()) {
    for (const line of readFileSync(join(root, file), 'utf8').split('\n')) {
      if (!/^\s*(?:\/?\*|\/\/)/.test(line)) continue;
      for (const [, name = ''] of line.matchAll(/\b(?:[\w.]+\/)*([\w.]+\.(?:ts|cc|mjs|py))\b/g)) {
        if (!names.has(name) && !existsSync(join(root, name))) missing.add(`${file} names ${name}`);
      }
    }
  }
  assert.deepEqual([...missing], []);
});
