/**
 * Damage to records: each kind is found, named in one line, and, where there is nothing to guess, repaired so that the
 * next check is clean.
 */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { S_IFDIR, S_IFLNK, S_IFREG } from '../../../../src/base/attr.js';
import { type Fid, type Name, ROOT_FID, type Transno, type Xid } from '../../../../src/base/ids.js';
import type { Dirent, Inode } from '../../../../src/storage/api.js';
import {
  accessKey,
  bareKey,
  clientKey,
  evictionKey,
  fidKey,
  fidNameKey,
  fidNumberKey,
  KEY,
  replyKey,
  spaceGroupKey,
  uuidKey,
} from '../../../../src/storage/format/keys.js';
import {
  COUNTERS_BYTES,
  type Counters,
  DIRENT_BY_COOKIE_HEADER,
  DIRENT_BY_NAME_BYTES,
  decodeCounters,
  decodeDirentByName,
  decodeInode,
  encodeCounters,
  encodeDirentByCookie,
  encodeDirentByName,
  encodedInode,
  encodeEviction,
  encodeReply,
  MARK_RECORD,
  REPLY_BYTES,
} from '../../../../src/storage/format/records.js';
import {
  decodeSuperblock,
  encodeSuperblock,
  FEATURE_ACCESS,
} from '../../../../src/storage/format/superblock.js';
import type { MetaDatabase, Writer } from '../../../../src/storage/meta_medium.js';
import { tableChecksum } from '../../../fixtures/memory_device.js';
import { CLIENT, type Fids, fsckWorld } from '../../../worlds/fsck_world.js';

/** Writes records as the product would, one lie at a time. */
class Vandal {
  readonly #writer: Writer;
  readonly #db: MetaDatabase;
  constructor(writer: Writer, db: MetaDatabase) {
    this.#writer = writer;
    this.#db = db;
  }
  get(key: Buffer): Buffer {
    const value = this.#db.get(key);
    assert(value !== undefined, `record ${key.toString('hex')} is there`);
    return Buffer.from(value.subarray(0, value.length));
  }
  put(key: Buffer, value: Buffer): void {
    this.#writer.put(key, value);
  }
  remove(key: Buffer): void {
    this.get(key);
    this.#writer.remove(key);
  }
  change(key: Buffer, change: (value: Buffer) => Buffer | undefined): void {
    const value = this.get(key);
    this.put(key, change(value) ?? value);
  }
  inode(fid: Fid, change: Partial<Inode>): void {
    const inode = { ...decodeInode(fid, this.get(fidKey(KEY.inode, fid))), ...change };
    this.put(fidKey(KEY.inode, change.fid ?? fid), encodedInode(inode));
  }
  counters(change: Partial<Counters>): void {
    const value = Buffer.alloc(COUNTERS_BYTES);
    encodeCounters({ ...decodeCounters(this.get(bareKey(KEY.counters))), ...change }, value);
    this.put(bareKey(KEY.counters), value);
  }
  /** The superblock without the bit of the access table. */
  withoutAccessBit(): void {
    this.change(bareKey(KEY.superblock), (value) => {
      const superblock = decodeSuperblock(value, tableChecksum, 'meta');
      const featuresIncompat = superblock.featuresIncompat & ~FEATURE_ACCESS;
      return encodeSuperblock({ ...superblock, featuresIncompat }, tableChecksum);
    });
  }
  dirent(parent: Fid, name: string): Dirent {
    return decodeDirentByName(name as Name, this.get(nameKey(parent, name)));
  }
  putName(parent: Fid, dirent: Dirent): void {
    const value = Buffer.alloc(DIRENT_BY_NAME_BYTES);
    encodeDirentByName(dirent, value);
    this.put(nameKey(parent, dirent.name), value);
  }
  putPosition(parent: Fid, dirent: Dirent): void {
    const value = Buffer.alloc(DIRENT_BY_COOKIE_HEADER + dirent.name.length);
    encodeDirentByCookie(dirent, value);
    this.put(positionKey(parent, dirent.cookie), value);
  }
  /** Both records. */
  link(parent: Fid, name: string, fid: Fid, type: number, cookie: number): void {
    const dirent = { name: name as Name, fid, type, cookie };
    this.putName(parent, dirent);
    this.putPosition(parent, dirent);
  }
  unlink(parent: Fid, name: string): void {
    const { cookie } = this.dirent(parent, name);
    this.remove(nameKey(parent, name));
    this.remove(positionKey(parent, cookie));
  }
}

function nameKey(parent: Fid, name: string): Buffer {
  return fidNameKey(KEY.direntByName, parent, name);
}
function positionKey(parent: Fid, cookie: number): Buffer {
  return fidNumberKey(KEY.direntByCookie, parent, cookie);
}
function windowKey(fid: Fid, index = 0): Buffer {
  return fidNumberKey(KEY.blockMap, fid, index);
}

interface Case {
  readonly name: string;
  readonly damage: (vandal: Vandal, fids: Fids) => void;
  /** What the check says, all of it. */
  readonly found: (fids: Fids) => readonly string[];
  /** What is left after a repair; nothing unless given. */
  readonly left?: (fids: Fids) => readonly string[];
  /** What the repair says it did, in order; looked at where given. */
  readonly repaired?: (fids: Fids) => readonly string[];
}

const CLOSED =
  'the table has the entry "nobody" now, which lets nobody in: add the entries anew, then remove that one';

const CASES: readonly Case[] = [
  // ---- Inodes.
  {
    name: 'a link count that is too high',
    damage: (vandal, { inline }) => vandal.inode(inline, { nlink: 4 }),
    found: ({ inline }) => [`link-count: inode ${inline} has the link count 4, but 1 links`],
    repaired: ({ inline }) => [`link-count: inode ${inline} has the link count 4, but 1 links: set to 1`],
  },
  {
    name: 'a link count that is too low',
    damage: (vandal, { hard }) => vandal.inode(hard, { nlink: 1 }),
    found: ({ hard }) => [`link-count: inode ${hard} has the link count 1, but 2 links`],
  },
  {
    name: 'a link count of a directory',
    damage: (vandal, { dir }) => vandal.inode(dir, { nlink: 2 }),
    found: ({ dir }) => [`link-count: inode ${dir} has the link count 2, but 3 links`],
  },
  {
    name: 'an inode record of another version',
    damage: (vandal, { inline }) =>
      vandal.change(fidKey(KEY.inode, inline), (value) => {
        value[0] = 9;
        return value;
      }),
    found: ({ inline }) => [`damaged-record: the record of inode ${inline} is damaged`],
    left: ({ inline }) => [`damaged-record: the record of inode ${inline} is damaged`],
  },
  {
    name: 'a mode that no file has',
    damage: (vandal, { inline }) => vandal.inode(inline, { mode: 0o644 }),
    found: ({ inline }) => [`inode: inode ${inline} has the mode 0644, which no file has`],
    left: ({ inline }) => [`inode: inode ${inline} has the mode 0644, which no file has`],
  },
  {
    name: 'a file that says it has a parent',
    damage: (vandal, { inline, dir }) => vandal.inode(inline, { parent: dir }),
    found: ({ inline, dir }) => [
      `parent: inode ${inline} is no directory, but has ${dir} as the directory that holds it`,
    ],
  },
  {
    name: 'a directory that has another as its parent',
    damage: (vandal, { sub }) => vandal.inode(sub, { parent: ROOT_FID }),
    found: ({ sub, dir }) => [`parent: directory ${sub} has directory 1 as its parent, but it is in ${dir}`],
  },
  {
    name: 'an unlinked inode that is no orphan',
    damage: (vandal, { orphan }) => vandal.remove(fidKey(KEY.orphan, orphan)),
    found: ({ orphan }) => [`orphan: inode ${orphan} was unlinked, but is not marked as an orphan`],
  },
  {
    name: 'an orphan that has a name',
    damage: (vandal, { inline }) => vandal.put(fidKey(KEY.orphan, inline), MARK_RECORD),
    found: ({ inline }) => [`orphan: inode ${inline} has a name, but is marked as an orphan`],
  },
  {
    name: 'an orphan that does not exist',
    damage: (vandal) => vandal.put(fidKey(KEY.orphan, 30 as Fid), MARK_RECORD),
    found: () => [
      'orphan: inode 30 is marked as an orphan and does not exist',
      'counter: the next object would be 24, but 30 is in use',
    ],
  },
  {
    name: 'a file that is marked to be removed',
    damage: (vandal, { blocks }) => vandal.put(fidKey(KEY.doomed, blocks), MARK_RECORD),
    found: ({ blocks }) => [`doomed: inode ${blocks} exists, but its content is marked to be removed`],
  },
  {
    name: 'counters that are too low',
    damage: (vandal) => vandal.counters({ nextObject: 17, nextCookie: 3, inodes: 100 }),
    found: () => [
      'counter: the target counts 100 inodes, but has 9',
      'counter: the next object would be 17, but 23 is in use',
      'counter: the next directory position would be 3, but 8 is in use',
    ],
  },
  {
    name: 'no counters',
    damage: (vandal) => vandal.remove(bareKey(KEY.counters)),
    found: () => ['counter: the record of the counters is missing'],
    left: () => ['counter: the record of the counters is missing'],
  },
  // ---- Names.
  {
    name: 'a name that leads to nothing',
    damage: (vandal, { dir }) => vandal.link(dir, 'ghost', 40 as Fid, S_IFREG, 9),
    found: ({ dir }) => [
      `dangling-name: the name "ghost" in directory ${dir} leads to inode 40, which does not exist`,
      'counter: the next directory position would be 9, but 9 is in use',
    ],
  },
  {
    name: 'an inode that is gone while its content and name are there',
    damage: (vandal, { blocks }) => vandal.remove(fidKey(KEY.inode, blocks)),
    found: ({ blocks, dir }) => [
      `dangling-name: the name "blocks" in directory ${dir} leads to inode ${blocks}, of which only the content is there`,
      `content: inode ${blocks} does not exist, but has 1 extended attributes, 1 block maps, and a name`,
      'counter: the target counts 9 inodes, but has 8',
    ],
    left: ({ blocks, dir }) => [
      `dangling-name: the name "blocks" in directory ${dir} leads to inode ${blocks}, of which only the content is there`,
      `content: inode ${blocks} does not exist, but has 1 extended attributes, 1 block maps, and a name`,
    ],
  },
  {
    name: 'content of nothing',
    damage: (vandal, { blocks, dir }) => {
      vandal.remove(fidKey(KEY.inode, blocks));
      vandal.unlink(dir, 'blocks');
      vandal.counters({ inodes: 8 });
    },
    found: ({ blocks }) => [
      `content: inode ${blocks} does not exist, but has 1 extended attributes, 1 block maps`,
    ],
  },
  {
    name: 'an xattr, a link target and inline data of nothing',
    damage: (vandal) => {
      vandal.put(fidNameKey(KEY.xattr, 20 as Fid, 'user.a'), Buffer.from([1]));
      vandal.put(fidNameKey(KEY.xattr, 15 as Fid, 'user.a'), Buffer.from([1]));
      vandal.put(fidKey(KEY.symlink, 15 as Fid), Buffer.from([1, 65]));
      vandal.put(fidKey(KEY.inlineData, 15 as Fid), Buffer.from([1, 0, 0, 0, 0x30, 0x43, 0xd0, 0xc1, 0x61]));
    },
    found: () => [
      'content: inode 15 does not exist, but has 1 extended attributes, a symbolic link target, inline data',
    ],
  },
  {
    name: 'a file without a name',
    damage: (vandal, { dir }) => vandal.unlink(dir, 'inline'),
    found: ({ inline }) => [`nameless: inode ${inline} has the link count 1, but no name`],
    repaired: ({ inline }) => [
      `nameless: inode ${inline} has the link count 1, but no name: named /lost+found/#${inline}`,
    ],
  },
  {
    name: 'a directory without a name',
    damage: (vandal) => vandal.unlink(ROOT_FID, 'dir'),
    found: ({ dir }) => [
      'link-count: inode 1 has the link count 3, but 2 links',
      `nameless: directory ${dir} has the link count 3, but no name`,
    ],
  },
  {
    name: 'a file without a name, and no way to make /lost+found',
    damage: (vandal, { dir, hard }) => {
      vandal.unlink(dir, 'inline');
      vandal.link(ROOT_FID, 'lost+found', hard, S_IFREG, 9);
      vandal.inode(hard, { nlink: 3 });
      vandal.counters({ nextCookie: 10 });
    },
    found: ({ inline }) => [`nameless: inode ${inline} has the link count 1, but no name`],
    left: ({ inline }) => [`nameless: inode ${inline} has the link count 1, but no name`],
  },
  {
    name: 'a name of another type than its inode',
    damage: (vandal, { inline, dir }) => {
      const { cookie } = vandal.dirent(dir, 'inline');
      vandal.link(dir, 'inline', inline, S_IFLNK, cookie);
    },
    found: ({ inline, dir }) => [
      `name: the name "inline" in directory ${dir} says that inode ${inline} is a symbolic link`,
    ],
  },
  {
    name: 'a name that is none',
    damage: (vandal, { inline, dir }) => {
      vandal.link(dir, 'a/b', inline, S_IFREG, 9);
      vandal.inode(inline, { nlink: 2 });
      vandal.counters({ nextCookie: 10 });
    },
    found: ({ dir }) => [`name: the name "a/b" in directory ${dir} is no name`],
    left: ({ dir }) => [`name: the name "a/b" in directory ${dir} is no name`],
  },
  {
    name: 'a name whose position is lost',
    damage: (vandal, { dir }) => vandal.remove(positionKey(dir, vandal.dirent(dir, 'inline').cookie)),
    found: ({ dir }) => [`position: the name "inline" in directory ${dir} has no record at its position 3`],
  },
  {
    name: 'a name whose position is damaged',
    damage: (vandal, { dir }) => vandal.put(positionKey(dir, 3), Buffer.from([7, 7])),
    found: ({ dir }) => [
      `position: the record at position 3, of the name "inline" in directory ${dir}, is damaged`,
    ],
  },
  {
    name: 'a name whose position leads elsewhere',
    damage: (vandal, { dir, blocks }) =>
      vandal.putPosition(dir, { ...vandal.dirent(dir, 'inline'), fid: blocks }),
    found: ({ dir, inline, blocks }) => [
      `position: the name "inline" in directory ${dir} leads to inode ${inline}, but to ${blocks} by its position 3`,
    ],
  },
  {
    name: 'two names at one position',
    damage: (vandal, { dir }) => {
      const { cookie } = vandal.dirent(dir, 'blocks');
      vandal.remove(positionKey(dir, vandal.dirent(dir, 'inline').cookie));
      vandal.putName(dir, { ...vandal.dirent(dir, 'inline'), cookie });
    },
    found: ({ dir }) => [
      `position: the name "inline" in directory ${dir} says it is at position 4, where another name is`,
    ],
  },
  {
    name: 'one position in two directories',
    damage: (vandal, { dir }) => {
      const root = vandal.dirent(ROOT_FID, 'hard');
      const { cookie } = vandal.dirent(dir, 'inline');
      vandal.remove(positionKey(ROOT_FID, root.cookie));
      vandal.link(ROOT_FID, 'hard', root.fid, S_IFREG, cookie);
    },
    found: ({ dir }) => [`position: position 3 of the name "inline" in directory ${dir} is used twice`],
  },
  {
    name: 'a position that was left behind',
    damage: (vandal, { dir, inline }) =>
      vandal.putPosition(dir, { name: 'old' as Name, fid: inline, type: S_IFREG, cookie: 8000 }),
    found: ({ dir, inline }) => [
      `position: the name "old" at position 8000 in directory ${dir} is no name of inode ${inline}`,
      'counter: the next directory position would be 9, but 8000 is in use',
    ],
  },
  {
    name: 'a position of a name that is elsewhere',
    damage: (vandal, { dir }) => {
      vandal.putPosition(dir, { ...vandal.dirent(dir, 'inline'), cookie: 9 });
      vandal.counters({ nextCookie: 10 });
    },
    found: ({ dir }) => [
      `position: the name "inline" at position 9 in directory ${dir} is at another position`,
    ],
  },
  {
    name: 'a damaged position that no name has',
    damage: (vandal, { dir }) => {
      vandal.put(positionKey(dir, 9), Buffer.from([1]));
      vandal.counters({ nextCookie: 10 });
    },
    found: ({ dir }) => [
      `damaged-record: the record at position 9 in directory ${dir}, which no name has, is damaged`,
    ],
  },
  {
    name: 'a name that was lost',
    damage: (vandal, { dir }) => vandal.remove(nameKey(dir, 'inline')),
    found: ({ dir }) => [
      `position: the name "inline" at position 3 in directory ${dir} has no record by name`,
    ],
  },
  {
    name: 'a name of a directory that was lost',
    damage: (vandal) => vandal.remove(nameKey(ROOT_FID, 'dir')),
    found: () => ['position: the name "dir" at position 1 in directory 1 has no record by name'],
  },
  {
    name: 'a damaged name',
    damage: (vandal, { dir }) => vandal.put(nameKey(dir, 'inline'), Buffer.from('rubbish')),
    found: ({ dir }) => [`damaged-record: the record of the name "inline" in directory ${dir} is damaged`],
  },
  {
    name: 'a damaged name that no position knows',
    damage: (vandal, { dir }) => {
      vandal.put(nameKey(dir, 'hard2'), Buffer.from('rubbish'));
      vandal.remove(positionKey(dir, 8));
    },
    found: ({ dir, hard }) => [
      `damaged-record: the record of the name "hard2" in directory ${dir} is damaged`,
      `link-count: inode ${hard} has the link count 2, but 1 links`,
    ],
    left: ({ dir }) => [`damaged-record: the record of the name "hard2" in directory ${dir} is damaged`],
  },
  // ---- The tree.
  {
    name: 'no root directory',
    damage: (vandal) => {
      vandal.remove(fidKey(KEY.inode, ROOT_FID));
      vandal.counters({ inodes: 8 });
    },
    found: () => [
      'directory: directory 1 does not exist, but has names',
      'directory: the root directory does not exist',
    ],
    left: () => [
      'directory: directory 1 does not exist, but has names',
      'directory: the root directory does not exist',
    ],
  },
  {
    name: 'a root that is no directory',
    damage: (vandal) => vandal.inode(ROOT_FID, { mode: S_IFREG | 0o755, sizeBytes: 0, blocks: 0 }),
    found: () => ['directory: inode 1 is no directory, but has names', 'directory: the root is no directory'],
    left: () => ['directory: inode 1 is no directory, but has names', 'directory: the root is no directory'],
  },
  {
    name: 'names in a directory that does not exist',
    damage: (vandal, { inline }) => {
      vandal.link(20_000 as Fid, 'stray', inline, S_IFREG, 9);
      vandal.inode(inline, { nlink: 2 });
      vandal.counters({ nextCookie: 10 });
    },
    found: () => ['directory: directory 20000 does not exist, but has names'],
    left: () => ['directory: directory 20000 does not exist, but has names'],
  },
  {
    name: 'names in a file',
    damage: (vandal, { inline, blocks }) => {
      vandal.link(blocks, 'stray', inline, S_IFREG, 9);
      vandal.inode(inline, { nlink: 2 });
      vandal.counters({ nextCookie: 10 });
    },
    found: ({ blocks }) => [`directory: inode ${blocks} is no directory, but has names`],
    left: ({ blocks }) => [`directory: inode ${blocks} is no directory, but has names`],
  },
  {
    name: 'a removed directory with names',
    damage: (vandal, { dir, sub, inline }) => {
      vandal.unlink(dir, 'sub');
      vandal.inode(sub, { nlink: 0, parent: 0 });
      vandal.inode(dir, { nlink: 2 });
      vandal.put(fidKey(KEY.orphan, sub), MARK_RECORD);
      vandal.link(sub, 'stray', inline, S_IFREG, 9);
      vandal.inode(inline, { nlink: 2 });
      vandal.counters({ nextCookie: 10 });
    },
    found: ({ sub }) => [`directory: directory ${sub} was removed, but has names`],
    left: ({ sub }) => [`directory: directory ${sub} was removed, but has names`],
  },
  {
    name: 'directories that hold each other',
    damage: (vandal, { dir, sub }) => {
      vandal.unlink(ROOT_FID, 'dir');
      vandal.link(sub, 'up', dir, S_IFDIR, 9);
      vandal.inode(dir, { parent: sub });
      vandal.inode(sub, { nlink: 3 });
      vandal.inode(ROOT_FID, { nlink: 2 });
      vandal.counters({ nextCookie: 10 });
    },
    found: ({ dir, sub }) => [
      `cycle: directories ${dir}, ${sub} hold each other and do not hang on the root`,
    ],
    left: ({ dir, sub }) => [`cycle: directories ${dir}, ${sub} hold each other and do not hang on the root`],
  },
  {
    name: 'a directory with two names',
    damage: (vandal, { dir, sub }) => {
      vandal.link(ROOT_FID, 'again', sub, S_IFDIR, 9);
      vandal.inode(ROOT_FID, { nlink: 4 });
      vandal.inode(sub, { parent: dir });
      vandal.counters({ nextCookie: 10 });
    },
    found: ({ sub }) => [`directory: 2 names lead to directory ${sub}`],
    left: ({ sub }) => [`directory: 2 names lead to directory ${sub}`],
  },
  // ---- Content.
  {
    name: 'a damaged attribute and a damaged link target',
    damage: (vandal, { dir, link }) => {
      vandal.put(fidNameKey(KEY.xattr, dir, 'user.color'), Buffer.from([2, 65]));
      vandal.put(fidKey(KEY.symlink, link), Buffer.from([2, 65]));
    },
    found: ({ dir, link }) => [
      `damaged-record: the extended attribute "user.color" of inode ${dir} is damaged`,
      `damaged-record: the target of symbolic link ${link} is damaged`,
    ],
    left: ({ dir, link }) => [
      `damaged-record: the extended attribute "user.color" of inode ${dir} is damaged`,
      `damaged-record: the target of symbolic link ${link} is damaged`,
    ],
  },
  {
    name: 'a symbolic link without a target, and one of another size',
    damage: (vandal, { link, hard }) => {
      vandal.remove(fidKey(KEY.symlink, link));
      vandal.put(fidKey(KEY.symlink, hard), Buffer.from([1, 65]));
    },
    found: ({ link, hard }) => [
      `symlink: symbolic link ${link} has no target`,
      `symlink: inode ${hard} is no symbolic link, but has a target`,
    ],
    left: ({ link, hard }) => [
      `symlink: symbolic link ${link} has no target`,
      `symlink: inode ${hard} is no symbolic link, but has a target`,
    ],
  },
  {
    name: 'a symbolic link of another size than its target',
    damage: (vandal, { link }) => vandal.inode(link, { sizeBytes: 60 }),
    found: ({ link }) => [`size: symbolic link ${link} has size 60, but a target of 6 bytes`],
  },
  {
    name: 'inline data of another size than the file, with a wrong checksum',
    damage: (vandal, { inline }) =>
      vandal.change(fidKey(KEY.inlineData, inline), (value) => Buffer.concat([value, Buffer.from('!')])),
    found: ({ inline }) => [
      `checksum: the inline data of inode ${inline} does not match its checksum`,
      `inline-data: inode ${inline} has 6 bytes of inline data, but its size is 5`,
      `content: the content records of inode ${inline} are not those that it had last`,
    ],
    left: ({ inline }) => [
      `checksum: the inline data of inode ${inline} does not match its checksum`,
      `inline-data: inode ${inline} has 6 bytes of inline data, but its size is 5`,
      `content: the content records of inode ${inline} are not those that it had last`,
    ],
  },
  {
    name: 'inline data and blocks',
    damage: (vandal, { inline, blocks }) => {
      const value = vandal.get(fidKey(KEY.inlineData, inline));
      vandal.put(fidKey(KEY.inlineData, blocks), value);
      vandal.inode(blocks, { sizeBytes: 5, blocks: 1 });
    },
    found: ({ blocks }) => [
      `content: inode ${blocks} has inline data and blocks`,
      `content: inode ${blocks} has content behind its end at 5`,
      `content: the content records of inode ${blocks} are not those that it had last`,
    ],
    left: ({ blocks }) => [
      `content: inode ${blocks} has inline data and blocks`,
      `content: inode ${blocks} has content behind its end at 5`,
      `content: the content records of inode ${blocks} are not those that it had last`,
    ],
  },
  {
    name: 'a block count',
    damage: (vandal, { blocks }) => vandal.inode(blocks, { blocks: 7 }),
    found: ({ blocks }) => [`block-count: inode ${blocks} counts 7 blocks of 512 bytes, but has 40`],
  },
  {
    name: 'content behind the end',
    damage: (vandal, { blocks }) => vandal.inode(blocks, { sizeBytes: 4097 }),
    found: ({ blocks }) => [`content: inode ${blocks} has content behind its end at 4097`],
    left: ({ blocks }) => [`content: inode ${blocks} has content behind its end at 4097`],
  },
  // ---- BlockMaps and space.
  {
    name: 'a damaged block map',
    damage: (vandal, { blocks }) =>
      vandal.change(windowKey(blocks), (value) => value.subarray(0, value.length - 4)),
    found: ({ blocks }) => [`damaged-record: block map 0 of inode ${blocks} is damaged`],
    left: ({ blocks }) => [`damaged-record: block map 0 of inode ${blocks} is damaged`],
  },
  {
    name: 'a block map that names kept blocks',
    damage: (vandal, { blocks }) =>
      vandal.change(windowKey(blocks), (value) => {
        value.writeUInt32LE(15, 8);
        return value;
      }),
    found: ({ blocks }) => [
      `damaged-record: block map 0 of inode ${blocks} names the device blocks 15 to 18, which hold no files`,
    ],
    left: ({ blocks }) => [
      `damaged-record: block map 0 of inode ${blocks} names the device blocks 15 to 18, which hold no files`,
    ],
  },
  {
    name: 'a block map that names blocks behind the end of the device',
    damage: (vandal, { orphan }) =>
      vandal.change(windowKey(orphan), (value) => {
        value.writeUInt32LE(12_287, 8);
        return value;
      }),
    found: ({ orphan }) => [
      `damaged-record: block map 0 of inode ${orphan} names the device blocks 12287 to 12288, which hold no files`,
    ],
    left: ({ orphan }) => [
      `damaged-record: block map 0 of inode ${orphan} names the device blocks 12287 to 12288, which hold no files`,
    ],
  },
  {
    name: 'blocks with two owners',
    damage: (vandal, { blocks, hard }) => {
      vandal.put(windowKey(hard), vandal.get(windowKey(blocks)));
      vandal.inode(hard, { blocks: 40, sizeBytes: 24_576 });
    },
    found: ({ blocks, hard }) => [
      `content: the content records of inode ${hard} are not those that it had last`,
      `shared-block: of the data device, blocks 16 to 20 belong to inode ${blocks} and inode ${hard}`,
    ],
    left: ({ blocks, hard }) => [
      `content: the content records of inode ${hard} are not those that it had last`,
      `shared-block: of the data device, blocks 16 to 20 belong to inode ${blocks} and inode ${hard}`,
    ],
  },
  {
    name: 'a block that a file has twice',
    damage: (vandal, { orphan }) => {
      vandal.put(windowKey(orphan, 1), vandal.get(windowKey(orphan)));
      vandal.inode(orphan, { blocks: 32, sizeBytes: (256 + 2) * 4096 });
    },
    found: ({ orphan }) => [
      `content: the content records of inode ${orphan} are not those that it had last`,
      `shared-block: of the data device, blocks 31 to 32 belong twice to inode ${orphan}`,
    ],
    left: ({ orphan }) => [
      `content: the content records of inode ${orphan} are not those that it had last`,
      `shared-block: of the data device, blocks 31 to 32 belong twice to inode ${orphan}`,
    ],
  },
  {
    name: 'blocks in use that are marked as free',
    damage: (vandal) =>
      vandal.change(spaceGroupKey(0), (value) => {
        value.writeUInt32LE(0xffff, 4);
        return value;
      }),
    found: () => ['space: free space, group 0: 16 blocks in use are marked as free, from block 16 on'],
  },
  {
    name: 'blocks of nobody that are marked as in use',
    damage: (vandal) =>
      vandal.change(spaceGroupKey(0), (value) => {
        value[4 + 100] = 0x70;
        return value;
      }),
    found: () => [
      'space: free space, group 0: 3 blocks that nothing uses are marked as in use, from block 804 on',
    ],
  },
  {
    name: 'a space record that is lost, one that is damaged, and one too many',
    damage: (vandal) => {
      vandal.remove(spaceGroupKey(0));
      vandal.put(spaceGroupKey(1), Buffer.from([1, 5]));
      vandal.put(spaceGroupKey(2), Buffer.from([1, 1]));
    },
    found: () => [
      'space: free space, group 0: 17 blocks in use are marked as free, from block 16 on',
      'damaged-record: free space, group 1: its record is damaged',
      'space: there is a free-space record of group 2, but the data device has 2',
    ],
  },
  // ---- Clients.
  {
    name: 'a damaged client record',
    damage: (vandal) => vandal.put(clientKey(CLIENT), Buffer.from([1, 2, 3])),
    found: () => [`damaged-record: the record of client ${CLIENT} is damaged`],
    left: () => [`damaged-record: the record of client ${CLIENT} is damaged`],
  },
  {
    name: 'replies that cannot be',
    damage: (vandal) => {
      const value = Buffer.alloc(REPLY_BYTES);
      encodeReply({ xid: 5 as Xid, opcode: 1, transno: (2 ** 40) as Transno, fid: 0, copiedBytes: 0 }, value);
      vandal.put(replyKey(uuidKey(KEY.reply, CLIENT), 3), value);
      vandal.put(replyKey(uuidKey(KEY.reply, CLIENT), 4), Buffer.from([1]));
    },
    found: () => [
      `reply: reply 3 of client ${CLIENT} has transno 1099511627776, but the last of the target is 4294967303`,
      `reply: reply 3 of client ${CLIENT} answers xid 5, as another does`,
      `damaged-record: the record of reply 4 of client ${CLIENT} is damaged`,
    ],
    left: () => [
      `reply: reply 3 of client ${CLIENT} has transno 1099511627776, but the last of the target is 4294967303`,
      `reply: reply 3 of client ${CLIENT} answers xid 5, as another does`,
      `damaged-record: the record of reply 4 of client ${CLIENT} is damaged`,
    ],
  },
  {
    name: 'damaged records of evictions',
    damage: (vandal) => {
      vandal.put(evictionKey(3), Buffer.from([1, 2]));
      const eviction = { uuid: CLIENT, name: 'c', reason: 'r', instance: 1, atMs: 1, had: undefined };
      vandal.put(evictionKey(4), encodeEviction({ ...eviction, number: 3 }));
      vandal.put(evictionKey(5), encodeEviction({ ...eviction, number: 5 }));
    },
    found: () => [
      'damaged-record: the record of eviction 3 is damaged',
      'damaged-record: the record of eviction 4 is damaged',
    ],
    repaired: () => [
      'damaged-record: the record of eviction 3 is damaged: removed',
      'damaged-record: the record of eviction 4 is damaged: removed',
    ],
  },
  // ---- The access table.
  {
    name: 'one damaged access entry of several',
    damage: (vandal) => vandal.change(accessKey('backup'), (value) => value.subarray(0, 100)),
    found: () => ['damaged-record: the record of access entry "backup" is damaged'],
    repaired: () => [
      'damaged-record: the record of access entry "backup" is damaged: removed, so that nobody can connect with it',
    ],
  },
  {
    name: 'access entries that are damaged, all of them',
    damage: (vandal) => {
      vandal.change(accessKey('backup'), (value) => value.subarray(0, 100));
      vandal.put(accessKey('host-1'), Buffer.from([1, 3]));
    },
    found: () => [
      'damaged-record: the record of access entry "backup" is damaged',
      'damaged-record: the record of access entry "host-1" is damaged',
    ],
    repaired: () =>
      ['backup', 'host-1'].map(
        (each) =>
          `damaged-record: the record of access entry "${each}" is damaged: removed, so that nobody can connect with it; ${CLOSED}`,
      ),
  },
  {
    name: 'an access entry whose key is no name',
    damage: (vandal) => {
      vandal.put(Buffer.from('1d', 'hex'), vandal.get(accessKey('backup')));
      vandal.put(Buffer.from('1d2e2e', 'hex'), vandal.get(accessKey('backup')));
    },
    found: () => [
      'damaged-record: the record of the access entry with key 1d, which is no name, is damaged',
      'damaged-record: the record of the access entry with key 1d2e2e, which is no name, is damaged',
    ],
  },
  {
    name: 'an access table without its feature bit',
    damage: (vandal) => vandal.withoutAccessBit(),
    found: () => [
      'access: the target has 2 access entries and no feature bit for them: earlier releases would let everybody in',
    ],
    repaired: () => [
      'access: the target has 2 access entries and no feature bit for them: earlier releases would let everybody in: bit set',
    ],
  },
  {
    name: 'an access table of damaged entries without its feature bit',
    damage: (vandal) => {
      vandal.withoutAccessBit();
      vandal.remove(accessKey('backup'));
      vandal.put(accessKey('host-1'), Buffer.from([7]));
    },
    found: () => [
      'damaged-record: the record of access entry "host-1" is damaged',
      'access: the target has 1 access entries and no feature bit for them: earlier releases would let everybody in',
    ],
  },
  {
    name: 'a ticket secret that is damaged',
    damage: (vandal) => vandal.put(Buffer.from('04', 'hex'), Buffer.alloc(32, 1)),
    found: () => ['damaged-record: the record of the ticket secret is damaged'],
    repaired: () => [
      'damaged-record: the record of the ticket secret is damaged: removed, so that the server makes a new one: files that clients with access entries have open are lost to them',
    ],
  },
  {
    name: 'a feature bit of an access table that is lost',
    damage: (vandal) => {
      vandal.remove(accessKey('backup'));
      vandal.remove(accessKey('host-1'));
    },
    found: () => [
      'access: the target has the feature bit of the access table and no entry: the table is lost',
    ],
    repaired: () => [
      `access: the target has the feature bit of the access table and no entry: the table is lost: ${CLOSED}`,
    ],
  },
  // ---- Keys.
  {
    name: 'records of no known kind',
    damage: (vandal) => {
      vandal.put(Buffer.from('03aa', 'hex'), Buffer.from([1]));
      vandal.put(Buffer.from('ff01', 'hex'), Buffer.from([1]));
      vandal.put(Buffer.from('0100', 'hex'), Buffer.from([1]));
      vandal.put(Buffer.from('1000', 'hex'), Buffer.from([1]));
    },
    found: () => [
      'unknown-record: a record with key 0100 is of no known kind',
      'unknown-record: a record with key 03aa is of no known kind',
      'unknown-record: a record with key ff01 is of no known kind',
      'unknown-record: a record with key 1000 has no key of its kind',
    ],
    left: () => [
      'unknown-record: a record with key 0100 is of no known kind',
      'unknown-record: a record with key 03aa is of no known kind',
      'unknown-record: a record with key ff01 is of no known kind',
      'unknown-record: a record with key 1000 has no key of its kind',
    ],
  },
];

for (const { name, damage, found, left, repaired } of CASES) {
  test(name, async (t) => {
    const world = await fsckWorld(t);
    const { fids } = world;
    await world.damage((writer, db) => damage(new Vandal(writer, db), fids));
    const first = await world.fsck();
    assert.deepEqual(world.lines(first), found(fids));
    assert.ok(world.lines(first).every((line) => !line.includes('\n')));
    const text = JSON.stringify(first);
    assert.ok(!text.includes('01'.repeat(32)) && !text.includes('1,1,1,1,1,1'), 'and no secret');
    const remains = left === undefined ? [] : left(fids);
    assert.equal(first.left - first.repairable, remains.length, 'what can be repaired is said before');

    const second = await world.fsck({ repair: true });
    const lines = world.lines(second);
    assert.deepEqual(lines.slice(second.repaired), remains, 'what is left');
    assert.equal(second.left, remains.length);
    if (repaired !== undefined) assert.deepEqual(lines.slice(0, second.repaired), repaired(fids));

    const third = await world.fsck({ repair: true });
    assert.deepEqual([third.repaired, world.lines(third)], [0, remains], 'a second repair changes nothing');
    if (remains.length > 0) return;
    const store = await world.target.open();
    assert.ok(store.access().length > 0 && (store.superblock.featuresIncompat & FEATURE_ACCESS) !== 0);
    assert.equal(store.inode(ROOT_FID)?.parent, ROOT_FID, 'and the target is served');
  });
}
