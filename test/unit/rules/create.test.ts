import assert from 'node:assert/strict';
import { test } from 'node:test';
import { S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG } from '../../../src/base/attr.js';
import { type Fh, type Fid, type Name, ROOT_FID } from '../../../src/base/ids.js';
import { type Creation, checkCreation } from '../../../src/rules/create.js';
import { errnoOf } from '../../fixtures/rules_tree.js';

const FH = 7 as Fh;

function creation(changes: Partial<Creation>): Creation {
  const usual = { parent: ROOT_FID, name: 'f' as Name, fid: 100 as Fid, mode: S_IFREG | 0o644 };
  return { ...usual, umask: 0, uid: 0, gid: 0, exclusive: true, ...changes };
}

test('what cannot be made is refused without a look at the tree', () => {
  const target = Buffer.from('x');
  assert.deepEqual(
    {
      file: errnoOf(() => checkCreation(creation({}))),
      openFile: errnoOf(() => checkCreation(creation({ fh: FH }))),
      noType: errnoOf(() => checkCreation(creation({ mode: 0o644 }))),
      unknownType: errnoOf(() => checkCreation(creation({ mode: 0o170644 }))),
      link: errnoOf(() => checkCreation(creation({ mode: S_IFLNK, target }))),
      linkToNowhere: errnoOf(() => checkCreation(creation({ mode: S_IFLNK, target: Buffer.alloc(0) }))),
      linkWithoutTarget: errnoOf(() => checkCreation(creation({ mode: S_IFLNK }))),
      fileWithTarget: errnoOf(() => checkCreation(creation({ target }))),
      nameless: errnoOf(() => checkCreation(creation({ name: undefined, fh: FH }))),
      namelessAndShut: errnoOf(() => checkCreation(creation({ name: undefined }))),
      namelessDirectory: errnoOf(() => checkCreation(creation({ name: undefined, mode: S_IFDIR }))),
      openFifo: errnoOf(() => checkCreation(creation({ mode: S_IFIFO, fh: FH }))),
    },
    {
      file: 'no error',
      openFile: 'no error',
      noType: 'EINVAL',
      unknownType: 'EINVAL',
      link: 'no error',
      linkToNowhere: 'ENOENT',
      linkWithoutTarget: 'EINVAL',
      fileWithTarget: 'EINVAL',
      nameless: 'no error',
      namelessAndShut: 'EINVAL',
      namelessDirectory: 'EINVAL',
      openFifo: 'EINVAL',
    },
  );
});
