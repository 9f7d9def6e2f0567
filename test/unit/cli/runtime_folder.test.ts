/** The folder for sockets and logs: who may have put things there, and what they are called. */

import assert from 'node:assert/strict';
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { controlPath, mountLogPath, mountpointPath } from '../../../src/cli/control.js';
import { runtimeDir } from '../../../src/cli/installed.js';

function folder(t: TestContext): string {
  const made = mkdtempSync(join(tmpdir(), 'holdfast-runtime-'));
  const before = process.env.HOLDFAST_RUNTIME_DIR;
  t.after(() => {
    if (before === undefined) delete process.env.HOLDFAST_RUNTIME_DIR;
    else process.env.HOLDFAST_RUNTIME_DIR = before;
    rmSync(made, { recursive: true });
  });
  return made;
}

function use(path: string): string {
  process.env.HOLDFAST_RUNTIME_DIR = path;
  return runtimeDir();
}

test('a folder that others own, can write, or lead elsewhere is refused, and the message says what to do', (t) => {
  const base = folder(t);
  const ours = join(base, 'ours');
  assert.equal(use(ours), ours);
  assert.equal(use(ours), ours, 'it is there already');
  const open = join(base, 'open');
  mkdirSync(open);
  chmodSync(open, 0o777);
  const foreign = join(base, 'foreign');
  mkdirSync(foreign);
  chownSync(foreign, 12_345, 12_345);
  const link = join(base, 'link');
  symlinkSync(ours, link);
  for (const [path, why] of [
    [open, /can be written by others/],
    [foreign, /belongs to user 12345/],
    [link, /is a symbolic link/],
  ] as const) {
    assert.throws(
      () => use(path),
      (error: { code?: string; message: string }) =>
        error.code === 'EACCES' && why.test(error.message) && /HOLDFAST_RUNTIME_DIR/.test(error.message),
    );
  }
  writeFileSync(join(base, 'file'), '');
  assert.throws(() => use(join(base, 'file')), { code: 'EEXIST' });
});

test('logs of mounts are named after their mount points, each by another name', (t) => {
  const base = use(join(folder(t), 'run'));
  const names = ['/mnt/home', '/mnt-home', '/', '/a b', `/${'x'.repeat(250)}`, `/${'x'.repeat(251)}`].map(
    (path) => mountLogPath(path).slice(`${base}/mounts/`.length),
  );
  assert.deepEqual(names.slice(0, 4), ['mnt-home.log', 'mnt\\x2dhome.log', '-.log', 'a\\x20b.log']);
  assert.equal(new Set(names).size, names.length);
  assert.ok(names.every((name) => Buffer.byteLength(name) <= 255));
});

test('a mount point that is named by a symbolic link is found, whatever link of the path that is', (t) => {
  const base = use(join(folder(t), 'run'));
  mkdirSync(join(base, 'real', 'mount'), { recursive: true });
  symlinkSync(join(base, 'real'), join(base, 'parent'));
  symlinkSync('real/mount', join(base, 'last'));
  const real = join(base, 'real', 'mount');
  const paths = [
    join(base, 'parent', 'mount'),
    join(base, 'last'),
    `${real}/`,
    join(base, 'real', '..', 'last'),
  ];
  assert.deepEqual(
    paths.map((path) => controlPath(mountpointPath(path))),
    paths.map(() => controlPath(real)),
  );
});
