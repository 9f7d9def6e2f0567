/** What a build is called: VERSION+DIGEST, from its sources alone. */

import assert from 'node:assert/strict';
import { cpSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { packageRoot } from '../../../native/binding.js';
import { installAs, nextVersion } from '../../../src/cli/demo/tree.js';
import { installedVersion } from '../../../src/cli/installed.js';

const { sourceDigest } = (await import(pathToFileURL(join(packageRoot(), 'build.mjs')).href)) as {
  sourceDigest(root: string): string;
};

function copyOfSources(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-identity-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  for (const part of ['mount', 'native', 'src']) {
    cpSync(join(packageRoot(), part), join(folder, part), {
      recursive: true,
      filter: (path) => path !== join(packageRoot(), 'native', 'build'),
    });
  }
  return folder;
}

test('the same sources have the same digest, wherever they lie and whatever lies beside them', (t) => {
  const folder = copyOfSources(t);
  const digest = sourceDigest(packageRoot());
  assert.match(digest, /^[0-9a-f]{12}$/);
  mkdirSync(join(folder, 'native', 'build'));
  writeFileSync(join(folder, 'native', 'build', 'made.cc'), 'not a source');
  mkdirSync(join(folder, 'test'));
  writeFileSync(join(folder, 'test', 'a.test.ts'), 'no part of the product');
  writeFileSync(join(folder, 'src', 'base', 'errno.ts~'), 'left by an editor');
  assert.equal(sourceDigest(folder), digest);
});

test('any change of the sources is another digest: a byte, a name, a file more', (t) => {
  const folder = copyOfSources(t);
  const digests = [sourceDigest(folder)];
  writeFileSync(join(folder, 'native', 'crc32c.h'), '#pragma once');
  digests.push(sourceDigest(folder));
  renameSync(join(folder, 'src', 'base', 'errno.ts'), join(folder, 'src', 'base', 'errors.ts'));
  digests.push(sourceDigest(folder));
  writeFileSync(join(folder, 'mount', 'empty'), '');
  digests.push(sourceDigest(folder));
  assert.equal(new Set(digests).size, digests.length, digests.join(' '));
});

test('the running build was made from the sources beside it, and keeps its version where it is copied to', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-identity-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const version = installedVersion();
  assert.equal(version.split('+')[1], sourceDigest(packageRoot()), 'npm run build');
  installAs(version, join(folder, 'same'));
  assert.equal(installedVersion(join(folder, 'same')), version);
  const next = nextVersion(version);
  installAs(next, join(folder, 'next'));
  assert.deepEqual([installedVersion(join(folder, 'next')), next === version], [next, false]);
});
