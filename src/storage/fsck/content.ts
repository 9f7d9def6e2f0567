/**
 * Inodes, and everything that belongs to one: xattrs, symlink target, inline data, block maps, marks. All these records
 * are in FID order, so this pass reads them side by side, and judges an inode when it has seen all of its records.
 */

import { isDir, isRegular, isSymlink, S_IFMT, SECTORS_PER_BLOCK } from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import { FIRST_OBJECT, type Fid, fidOf, objectOf, ROOT_FID, targetIndexOf } from '../../base/ids.js';
import { FILE_MAX_BYTES } from '../../base/limits.js';
import type { Inode } from '../api.js';
import { INLINE_MAX } from '../data/file_changes.js';
import { BLOCK_BYTES, decodeBlockMap, MAP_BLOCKS } from '../format/block_map.js';
import { blockMapDigest, inlineDigest } from '../format/content_digest.js';
import { fidKey, KEY, readU64 } from '../format/keys.js';
import { decodeInline, decodeInode, isInodeLength } from '../format/records.js';
import { crc32c } from '../format/superblock.js';
import { DAMAGED, type InodeIndex, ORPHAN } from './inodes.js';
import type { FindingKind } from './report.js';
import { breathe, FidCursor, type FsckContext } from './scan.js';
import { type BlockOwners, checkBlockMap } from './space.js';

const TYPES: readonly number[] = [0o140000, 0o120000, 0o100000, 0o060000, 0o040000, 0o020000, 0o010000];
const MODE_BITS = S_IFMT | 0o7777;
const NSEC_END = 1_000_000_000;
const XATTR_BYTES_MAX = 65_536;
const INODES_A_BREATH = 500;

/** Content records of a FID that has no inode. */
export interface Ghost {
  readonly fid: Fid;
  readonly text: string;
}
const GHOSTS_KEPT = 10_000;

export interface ContentResult {
  readonly ghosts: readonly Ghost[];
  /** The highest object number that a record names. */
  readonly lastObject: number;
}

/** What the pass saw of one FID. */
interface Seen {
  readonly fid: Fid;
  inode: Inode | 'damaged' | undefined;
  orphan: boolean;
  doomed: boolean;
  xattrs: number;
  symlinkBytes: number | undefined;
  inlineBytes: number | undefined;
  /** Digest of the content records seen. */
  digest: number;
  blockMaps: number;
  blocks: number;
  /** A block map could not be read: `blocks` is too low. */
  blockMapDamaged: boolean;
  /** The file block after the last written one. */
  writtenEnd: number;
}

type Visit = (record: { readonly key: Buffer; readonly value: Buffer }, seen: Seen) => void;

class ContentPass {
  readonly ghosts: Ghost[] = [];
  lastObject = 0;
  readonly #context: FsckContext;
  readonly #index: InodeIndex;
  readonly #owners: BlockOwners;

  constructor(context: FsckContext, index: InodeIndex, owners: BlockOwners) {
    this.#context = context;
    this.#index = index;
    this.#owners = owners;
  }

  async run(): Promise<void> {
    const readers: readonly (readonly [FidCursor, Visit])[] = [
      [new FidCursor(this.#context, KEY.inode), (record, seen) => this.#inode(record, seen)],
      [new FidCursor(this.#context, KEY.xattr), (record, seen) => this.#xattr(record, seen)],
      [new FidCursor(this.#context, KEY.symlink), (record, seen) => this.#symlink(record, seen)],
      [new FidCursor(this.#context, KEY.inlineData), (record, seen) => this.#inline(record, seen)],
      [new FidCursor(this.#context, KEY.blockMap), (record, seen) => this.#blockMap(record, seen)],
      [new FidCursor(this.#context, KEY.orphan), (record, seen) => this.#mark(record, seen)],
      [new FidCursor(this.#context, KEY.doomed), (record, seen) => this.#mark(record, seen)],
    ];
    for (let count = 1; ; count++) {
      let fid = Number.POSITIVE_INFINITY;
      for (const [cursor] of readers) fid = Math.min(fid, cursor.fid);
      if (fid === Number.POSITIVE_INFINITY) return;
      const seen = nothingSeen(fid as Fid);
      for (const [cursor, visit] of readers) {
        for (let record = cursor.take(seen.fid); record !== undefined; record = cursor.take(seen.fid)) {
          visit(record, seen);
        }
      }
      this.#judge(seen);
      if (count % INODES_A_BREATH !== 0) continue;
      this.#context.progress('inodes', this.#context.counts.inodes);
      await breathe(this.#context.runtime);
    }
  }

  #add(kind: FindingKind, fid: Fid, text: string): void {
    this.#context.findings.add({ kind, fid, text });
  }

  // ---- Records.

  #inode({ value }: { readonly value: Buffer }, seen: Seen): void {
    this.#context.counts.inodes++;
    if (!isInodeLength(value.length)) seen.inode = 'damaged';
    else seen.inode = orDamaged(() => decodeInode(seen.fid, value));
    if (seen.inode === 'damaged') {
      this.#add('damaged-record', seen.fid, `the record of inode ${seen.fid} is damaged`);
    }
  }

  #xattr({ key, value }: { readonly key: Buffer; readonly value: Buffer }, seen: Seen): void {
    this.#context.counts.xattrs++;
    seen.xattrs++;
    if (value[0] === 1 && value.length <= 1 + XATTR_BYTES_MAX) return;
    const name = JSON.stringify(key.toString('latin1', 9));
    this.#add('damaged-record', seen.fid, `the extended attribute ${name} of inode ${seen.fid} is damaged`);
  }

  #symlink({ value }: { readonly value: Buffer }, seen: Seen): void {
    this.#context.counts.symlinks++;
    seen.symlinkBytes = value.length - 1;
    if (value[0] === 1 && value.length > 1) return;
    seen.symlinkBytes = -1;
    this.#add('damaged-record', seen.fid, `the target of symbolic link ${seen.fid} is damaged`);
  }

  #inline({ value }: { readonly value: Buffer }, seen: Seen): void {
    this.#context.counts.inlineFiles++;
    const { fid } = seen;
    const inline = orDamaged(() => decodeInline(fid, value));
    if (inline === 'damaged' || inline.bytes.length === 0 || inline.bytes.length > INLINE_MAX) {
      seen.inlineBytes = -1;
      this.#add('damaged-record', fid, `the inline data of inode ${fid} is damaged`);
      return;
    }
    seen.inlineBytes = inline.bytes.length;
    seen.digest ^= inlineDigest(this.#context.runtime.checksum, inline.bytes);
    if (crc32c(this.#context.runtime.checksum, inline.bytes) === inline.crc) return;
    this.#add('checksum', fid, `the inline data of inode ${fid} does not match its checksum`);
  }

  #blockMap({ key, value }: { readonly key: Buffer; readonly value: Buffer }, seen: Seen): void {
    this.#context.counts.blockMaps++;
    seen.blockMaps++;
    const index = readU64(key, 9);
    const start = index * MAP_BLOCKS;
    const fault = checkBlockMap(value, this.#owners.totalBlocks, (run) => {
      seen.blocks += run.count;
      if (run.written) seen.writtenEnd = start + run.first + run.count;
      this.#owners.claim(run.place, run.count);
    });
    const beyond = start * BLOCK_BYTES >= FILE_MAX_BYTES ? 'lies beyond the largest file' : undefined;
    if (fault === undefined) {
      const blockMap = decodeBlockMap(value, `block map ${index} of ${seen.fid}`);
      seen.digest ^= blockMapDigest(this.#context.runtime.checksum, index, blockMap);
      if (beyond === undefined) return;
    } else {
      this.#owners.uncertain = true;
      seen.blockMapDamaged = true;
    }
    const text = `block map ${index} of inode ${seen.fid} ${fault ?? beyond}`;
    this.#add('damaged-record', seen.fid, text);
  }

  #mark({ key, value }: { readonly key: Buffer; readonly value: Buffer }, seen: Seen): void {
    const orphan = key[0] === KEY.orphan;
    if (orphan) {
      this.#context.counts.orphans++;
      seen.orphan = true;
    } else {
      this.#context.counts.doomed++;
      seen.doomed = true;
    }
    if (value.length === 1 && value[0] === 1) return;
    const { fid } = seen;
    this.#context.findings.add({
      kind: 'damaged-record',
      fid,
      text: `the ${orphan ? 'orphan' : 'doomed'} record of inode ${fid} is damaged`,
      repair: {
        stage: 'records',
        done: 'written again',
        apply: (tx) => tx.mark(orphan ? KEY.orphan : KEY.doomed, fid),
      },
    });
  }

  // ---- Judgement.

  #judge(seen: Seen): void {
    const { fid, inode } = seen;
    const { targetIndex } = this.#context.superblock;
    if (targetIndexOf(fid) !== targetIndex) {
      this.#add('inode', fid, `FID ${fid} is of target ${targetIndexOf(fid)}, this is ${targetIndex}`);
    } else {
      this.lastObject = Math.max(this.lastObject, objectOf(fid));
    }
    if (inode === undefined) {
      this.#withoutInode(seen);
      return;
    }
    const flags = seen.orphan ? ORPHAN : 0;
    if (inode === 'damaged') {
      this.#index.add({ fid, mode: 0, nlink: 0, parent: 0, flags: flags | DAMAGED });
      return;
    }
    const { mode, nlink, parent } = inode;
    this.#index.add({ fid, mode, nlink, parent, flags });
    if (isDir(mode)) this.#context.counts.directories++;
    const fault = inodeFault(inode, targetIndex);
    if (fault !== undefined) this.#add('inode', fid, `inode ${fid} ${fault}`);
    this.#doomed(seen);
    // Nothing can be said about an inode of an unknown type.
    if (!TYPES.includes(mode & S_IFMT)) return;
    this.#content(seen, inode);
    this.#blocks(seen, inode);
    if (inode.noXattrs === true && seen.xattrs > 0) {
      this.#context.findings.add({
        kind: 'inode',
        fid,
        text: `inode ${fid} says that it has no extended attributes, and has ${seen.xattrs}`,
        repair: {
          stage: 'records',
          done: 'corrected',
          apply: (tx) => tx.changeInode(fid, { noXattrs: undefined }),
        },
      });
    }
    if (!isDir(mode) && parent !== 0 && fid !== ROOT_FID) {
      this.#context.findings.add({
        kind: 'parent',
        fid,
        text: `inode ${fid} is no directory, but has ${parent} as the directory that holds it`,
        repair: {
          stage: 'links',
          done: 'set to none',
          apply: (tx) => tx.changeInode(fid, { parent: 0 }),
        },
      });
    }
  }

  #withoutInode(seen: Seen): void {
    const { fid } = seen;
    if (seen.orphan) {
      this.#context.findings.add({
        kind: 'orphan',
        fid,
        text: `inode ${fid} is marked as an orphan and does not exist`,
        repair: {
          stage: 'records',
          done: 'mark removed',
          apply: (tx) => tx.remove(fidKey(KEY.orphan, fid)),
        },
      });
    }
    const parts: string[] = [];
    if (seen.xattrs > 0) parts.push(`${seen.xattrs} extended attributes`);
    if (seen.symlinkBytes !== undefined) parts.push('a symbolic link target');
    if (seen.inlineBytes !== undefined) parts.push('inline data');
    if (seen.blockMaps > 0 && !seen.doomed) parts.push(`${seen.blockMaps} block maps`);
    if (parts.length === 0) return;
    const text = `inode ${fid} does not exist, but has ${parts.join(', ')}`;
    // The next round finds the rest.
    if (this.ghosts.length < GHOSTS_KEPT) this.ghosts.push({ fid, text });
    else this.#add('content', fid, text);
  }

  #doomed({ fid, doomed }: Seen): void {
    if (!doomed) return;
    this.#context.findings.add({
      kind: 'doomed',
      fid,
      text: `inode ${fid} exists, but its content is marked to be removed`,
      repair: { stage: 'records', done: 'mark removed', apply: (tx) => tx.remove(fidKey(KEY.doomed, fid)) },
    });
  }

  /** Checks that the inode has all the content that its type may have, and no other content. */
  #content(seen: Seen, inode: Inode): void {
    const { fid, inlineBytes, symlinkBytes, blockMaps } = seen;
    const { sizeBytes } = inode;
    if (!isRegular(inode.mode) && (inlineBytes !== undefined || blockMaps > 0)) {
      this.#add('content', fid, `inode ${fid} is no regular file, but has content`);
    }
    if (inlineBytes !== undefined && blockMaps > 0) {
      this.#add('content', fid, `inode ${fid} has inline data and blocks`);
    }
    if (inlineBytes !== undefined && inlineBytes >= 0 && inlineBytes !== sizeBytes) {
      const text = `inode ${fid} has ${inlineBytes} bytes of inline data, but its size is ${sizeBytes}`;
      this.#add('inline-data', fid, text);
    }
    if (seen.writtenEnd > Math.ceil(sizeBytes / BLOCK_BYTES)) {
      this.#add('content', fid, `inode ${fid} has content behind its end at ${sizeBytes}`);
    }
    if (!isSymlink(inode.mode)) {
      if (symlinkBytes !== undefined)
        this.#add('symlink', fid, `inode ${fid} is no symbolic link, but has a target`);
    } else if (symlinkBytes === undefined) {
      this.#add('symlink', fid, `symbolic link ${fid} has no target`);
    } else if (symlinkBytes >= 0 && symlinkBytes !== sizeBytes) {
      this.#context.findings.add({
        kind: 'size',
        fid,
        text: `symbolic link ${fid} has size ${sizeBytes}, but a target of ${symlinkBytes} bytes`,
        repair: {
          stage: 'links',
          done: `set to ${symlinkBytes}`,
          apply: (tx) => tx.changeInode(fid, { sizeBytes: symlinkBytes }),
        },
      });
    }
  }

  #blocks(seen: Seen, inode: Inode): void {
    const { fid, inlineBytes } = seen;
    // The block count of a directory means nothing; a damaged record tells nothing about its blocks.
    if (isDir(inode.mode) || (inlineBytes !== undefined && inlineBytes < 0) || seen.blockMapDamaged) return;
    if (inode.digest !== undefined && seen.digest >>> 0 !== inode.digest) {
      this.#add('content', fid, `the content records of inode ${fid} are not those that it had last`);
    }
    const blocks = inlineBytes === undefined ? seen.blocks * SECTORS_PER_BLOCK : Math.ceil(inlineBytes / 512);
    if (blocks === inode.blocks) return;
    this.#context.findings.add({
      kind: 'block-count',
      fid,
      text: `inode ${fid} counts ${inode.blocks} blocks of 512 bytes, but has ${blocks}`,
      repair: {
        stage: 'links',
        done: `set to ${blocks}`,
        apply: (tx) => tx.changeInode(fid, { blocks }),
      },
    });
  }
}

function nothingSeen(fid: Fid): Seen {
  return {
    fid,
    inode: undefined,
    orphan: false,
    doomed: false,
    xattrs: 0,
    symlinkBytes: undefined,
    inlineBytes: undefined,
    digest: 0,
    blockMaps: 0,
    blocks: 0,
    blockMapDamaged: false,
    writtenEnd: 0,
  };
}

function orDamaged<T>(decode: () => T): T | 'damaged' {
  try {
    return decode();
  } catch (thrown) {
    if (thrown instanceof FsError) return 'damaged';
    throw thrown;
  }
}

/** @returns the end of a finding's line if a field has an impossible value. */
function inodeFault(inode: Inode, targetIndex: number): string | undefined {
  const { fid, mode } = inode;
  if (!TYPES.includes(mode & S_IFMT) || (mode & ~MODE_BITS) !== 0) {
    return `has the mode 0${mode.toString(8)}, which no file has`;
  }
  const own = fid === ROOT_FID || fid >= fidOf(targetIndex, FIRST_OBJECT);
  if (!own) return 'has a number that is kept for the filesystem';
  if (inode.sizeBytes > FILE_MAX_BYTES) return `has the size ${inode.sizeBytes}, more than a file can have`;
  const times = [inode.atime, inode.mtime, inode.ctime, inode.btime];
  if (times.some(({ nsec }) => nsec >= NSEC_END)) return 'has a time with more than a second of nanoseconds';
  return undefined;
}

/** Checks all records that belong to inodes, and fills index and owners. */
export async function checkContent(
  context: FsckContext,
  index: InodeIndex,
  owners: BlockOwners,
): Promise<ContentResult> {
  const pass = new ContentPass(context, index, owners);
  context.progress('inodes', 0);
  await pass.run();
  return pass;
}

/**
 * Reports content without an inode; the repair removes it, unless a name leads to it. @param named FIDs that have names
 * but no inode.
 */
export function judgeGhosts(
  { findings }: FsckContext,
  ghosts: readonly Ghost[],
  named: ReadonlySet<number> | undefined,
): void {
  for (const { fid, text } of ghosts) {
    if (named === undefined || named.has(fid)) {
      findings.add({ kind: 'content', fid, text: `${text}, and a name` });
      continue;
    }
    findings.add({
      kind: 'content',
      fid,
      text,
      repair: { stage: 'records', done: 'removed', apply: (tx) => tx.removeContent(fid) },
    });
  }
}
