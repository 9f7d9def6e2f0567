import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Name, ROOT_FID } from '../../../src/base/ids.js';
import { applyLink, checkLink, LINK_MAX } from '../../../src/rules/link.js';
import { circumstances, errnoOf, RulesTree } from '../../fixtures/rules_tree.js';

test('a file has at most LINK_MAX names', () => {
  const tree = new RulesTree();
  const file = tree.make('f');
  tree.execute((tx) => tx.putInode({ ...file, nlink: LINK_MAX - 1 }));
  const last = { fid: file.fid, parent: ROOT_FID, name: 'last' as Name };
  checkLink(tree, last, () => false);
  const { attr } = tree.execute((tx) => applyLink(tx, last, circumstances()));
  assert.equal(attr.nlink, LINK_MAX);
  const more = { ...last, name: 'more' as Name };
  assert.equal(
    errnoOf(() => checkLink(tree, more, () => false)),
    'EMLINK',
  );
});
