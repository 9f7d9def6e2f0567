import assert from 'node:assert/strict';
import { test } from 'node:test';
import { S_IFREG } from '../../../src/base/attr.js';
import { applyPartOfCut, applySetattr } from '../../../src/rules/setattr.js';
import { AT, LATER, RulesTree } from '../../fixtures/rules_tree.js';

const CAPABILITY = 'security.capability';

test('a step of a long cut takes the privileges of what is gone, and nothing else', () => {
  const tree = new RulesTree();
  const file = tree.make('f', { mode: S_IFREG | 0o6755 });
  tree.execute((tx) => tx.putXattr(file.fid, CAPABILITY, Buffer.from('cap')));
  const changes = { sizeBytes: 0, mode: 0o600, uid: 5, killSuidgid: true };
  tree.execute((tx) => applyPartOfCut(tx, file, changes));
  assert.deepEqual(
    [tree.inode(file.fid), tree.xattr(file.fid, CAPABILITY)],
    [{ ...file, mode: S_IFREG | 0o755 }, undefined],
  );
});

test('a step of a long cut by root takes capabilities only', () => {
  const tree = new RulesTree();
  const file = tree.make('f', { mode: S_IFREG | 0o6755 });
  tree.execute((tx) => tx.putXattr(file.fid, CAPABILITY, Buffer.from('cap')));
  tree.execute((tx) => applyPartOfCut(tx, file, { sizeBytes: 0 }));
  assert.deepEqual([tree.inode(file.fid), tree.xattr(file.fid, CAPABILITY)], [file, undefined]);
});

test('ctime is the time of the change, unless the kernel says which', () => {
  const tree = new RulesTree();
  const file = tree.make('f');
  const ctime = { sec: 3, nsec: 4 };
  const told = tree.execute((tx) => applySetattr(tx, file, { mode: 0o600, ctime }, LATER));
  assert.deepEqual([told.ctime, told.mtime, tree.inode(file.fid)], [ctime, AT, told]);
});
