import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ACL_ACCESS, type Acl, encodeAcl } from '../../../src/rules/acl.js';
import { checkSetxattr, checkXattrChange, checkXattrName } from '../../../src/rules/xattr.js';
import { errnoOf, RulesTree } from '../../fixtures/rules_tree.js';

test('the namespaces of attributes are those of Linux, and flags are XATTR_CREATE and XATTR_REPLACE', () => {
  const ofName = (name: string): string => errnoOf(() => checkXattrName(name));
  assert.deepEqual(
    ['user.a', 'trusted.a', 'security.a', 'system.posix_acl_access', 'system.posix_acl_default'].map(ofName),
    ['no error', 'no error', 'no error', 'no error', 'no error'],
  );
  assert.deepEqual(['system.a', 'a', '', 'user.', 'user'].map(ofName), [
    'EOPNOTSUPP',
    'EOPNOTSUPP',
    'EOPNOTSUPP',
    'EINVAL',
    'EOPNOTSUPP',
  ]);
  const value = Buffer.alloc(0);
  assert.deepEqual(
    [0, 1, 2, 3, 4].map((flags) => errnoOf(() => checkXattrChange({ name: 'user.a', value, flags }))),
    ['no error', 'no error', 'no error', 'no error', 'EINVAL'],
  );
});

test('the names of all attributes of an inode fit one listxattr', () => {
  const tree = new RulesTree();
  const file = tree.make('f');
  const value = Buffer.from('v');
  // 256 names of 255 bytes and an end each are 65,536 bytes.
  const nameAt = (index: number): string => `user.${String(index).padStart(250, '0')}`;
  tree.execute((tx) => {
    for (let index = 0; index < 255; index++) tx.putXattr(file.fid, nameAt(index), value);
  });
  const setting = (name: string): string =>
    errnoOf(() => checkSetxattr(tree, file, { name, value, flags: 0 }));
  assert.deepEqual([setting(nameAt(255)), setting(`${nameAt(255)}x`)], ['no error', 'ENOSPC']);
  tree.execute((tx) => tx.putXattr(file.fid, nameAt(255), value));
  assert.equal(setting(nameAt(3)), 'no error', 'a new value adds no name');
});

test('an ACL that is none is refused', () => {
  const tree = new RulesTree();
  const file = tree.make('f');
  const NONE = 0xffffffff;
  const [owner, group, other] = [1, 4, 32].map((tag) => ({ tag, perm: 7, id: NONE }));
  const user = { tag: 2, perm: 7, id: 5 };
  const mask = { tag: 16, perm: 7, id: NONE };
  assert.ok(owner !== undefined && group !== undefined && other !== undefined);
  const setting = (value: Buffer): string =>
    errnoOf(() => checkSetxattr(tree, file, { name: ACL_ACCESS, value, flags: 0 }));
  const settingAcl = (acl: Acl): string => setting(encodeAcl(acl));
  assert.deepEqual(
    {
      minimal: settingAcl([owner, group, other]),
      whole: settingAcl([owner, user, group, mask, other]),
      nothing: settingAcl([]),
      noOwner: settingAcl([group, other]),
      noMask: settingAcl([owner, user, group, other]),
      disorder: settingAcl([owner, group, user, mask, other]),
      twice: settingAcl([owner, group, mask, mask, other]),
      unknownTag: settingAcl([owner, group, other, { tag: 64, perm: 7, id: NONE }]),
      permissions: settingAcl([owner, { ...group, perm: 8 }, other]),
      odd: setting(Buffer.from([2, 0, 0, 0, 1])),
      version: setting(Buffer.from([3, 0, 0, 0])),
    },
    {
      minimal: 'no error',
      whole: 'no error',
      nothing: 'no error',
      noOwner: 'EINVAL',
      noMask: 'EINVAL',
      disorder: 'EINVAL',
      twice: 'EINVAL',
      unknownTag: 'EINVAL',
      permissions: 'EINVAL',
      odd: 'EINVAL',
      version: 'EOPNOTSUPP',
    },
  );
});
