/** Versions side by side in a folder: which trees are there, which one is in use, who runs from one. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import {
  isPacked,
  linkBeside,
  processesOf,
  switchLink,
  textOf,
  treeInUse,
  treesIn,
} from '../../../src/cli/side_by_side.js';

function folderOf(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-side-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

function treeOf(folder: string, version: string): string {
  const tree = join(folder, `holdfast-${version}`);
  for (const name of ['bin', 'dist']) mkdirSync(join(tree, name), { recursive: true });
  for (const name of ['node', 'holdfast']) writeFileSync(join(tree, 'bin', name), '');
  writeFileSync(join(tree, 'package.json'), JSON.stringify({ version }));
  writeFileSync(join(tree, 'dist', 'build.json'), JSON.stringify({ digest: 'abc' }));
  return tree;
}

test('trees are listed in the order of their versions; other folders are no trees', (t) => {
  const folder = folderOf(t);
  for (const version of ['0.10.0', '0.9.0', '0.2.0']) treeOf(folder, version);
  mkdirSync(join(folder, 'holdfast-source'));
  symlinkSync('holdfast-0.9.0', join(folder, 'holdfast'));
  assert.deepEqual(
    treesIn(folder).map(({ version }) => version),
    ['0.2.0+abc', '0.9.0+abc', '0.10.0+abc'],
  );
  assert.equal(isPacked(join(folder, 'holdfast-source')), false);
});

test('the link leads to one tree after the other; without a tree behind it, none is in use', (t) => {
  const folder = folderOf(t);
  const [first, second] = [treeOf(folder, '1.0.0'), treeOf(folder, '2.0.0')];
  const link = linkBeside(first);
  assert.equal(treeInUse(link), undefined);
  switchLink(link, first);
  assert.equal(treeInUse(link), first);
  switchLink(link, second);
  assert.equal(treeInUse(link), second);
  rmSync(second, { recursive: true });
  assert.equal(treeInUse(link), undefined);
  assert.deepEqual(readdirSync(folder).sort(), ['holdfast', 'holdfast-1.0.0']);
  rmSync(link);
  mkdirSync(link);
  assert.throws(() => treeInUse(link), /holdfast is no link: it should say which version is in use/);
});

test('processes are those whose executable is the Node of the tree, also after it was replaced', async (t) => {
  const folder = folderOf(t);
  const [tree, other] = [treeOf(folder, '1.0.0'), treeOf(folder, '2.0.0')];
  const node = join(tree, 'bin', 'node');
  copyFileSync('/bin/sleep', node);
  chmodSync(node, 0o755);
  const child = spawn(node, ['60'], { stdio: 'ignore' });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  t.after(async () => {
    child.kill();
    await ended;
  });
  await new Promise((resolve) => child.once('spawn', resolve));
  const running = [{ pid: child.pid, command: 'a process' }];
  assert.deepEqual([processesOf(tree), processesOf(other)], [running, []]);
  assert.equal(textOf(processesOf(tree)), `a process (pid ${child.pid})`);
  rmSync(node);
  writeFileSync(node, 'a new build');
  assert.deepEqual(processesOf(tree), running);
});
