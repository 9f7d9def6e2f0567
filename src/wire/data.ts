/**
 * Data family. Opcodes 96-111. A bulk travels raw behind the body, with at most BULK_MAX bytes. The sender holds a data
 * lock. `time` is for replays, as in the metadata family.
 */

import { Empty, operation } from './operation.js';
import { attr, fid, message, oneOf, opt, req, timespec, u32, uint } from './schema.js';

/** Page-in, read, readahead. The bulk is shorter than the requested length only at the end of the file; holes are zeros. */
export const Read = operation(
  96,
  'READ',
  message('ReadRequest', { fid: req(1, fid), offset: req(2, uint), length: req(3, u32) }),
  message('ReadReply', { sizeBytes: req(1, uint) }),
);
/** Write-back of dirty pages. May extend the file; sets its mtime to `mtime`, and its ctime, which does not go back. */
export const Write = operation(
  97,
  'WRITE',
  message('WriteRequest', {
    fid: req(1, fid),
    offset: req(2, uint),
    mtime: req(3, timespec),
    /** Bytes of the client's space grant that this write uses up. */
    grantUsed: req(4, uint),
  }),
  message('WriteReply', {
    /** st_blocks after the write. */
    blocks: req(1, uint),
    /** Bytes added to the client's grant. */
    grantBytes: req(2, uint),
  }),
  'modifies',
);
/**
 * fsync, fdatasync, fsyncdir, syncfs: the server answers when everything executed before it is durable. With
 * FEATURE.orderedSync also the WRITEs that came before it and are not executed yet, if they succeed.
 */
export const Sync = operation(98, 'SYNC', message('SyncRequest', { fid: opt(1, fid) }), Empty);
/** Linux flags: KEEP_SIZE 1, PUNCH_HOLE 2 (with KEEP_SIZE), ZERO_RANGE 16; others EOPNOTSUPP. */
export const Fallocate = operation(
  99,
  'FALLOCATE',
  message('FallocateRequest', {
    fid: req(1, fid),
    mode: req(2, u32),
    offset: req(3, uint),
    length: req(4, uint),
    time: opt(5, timespec),
    /** Unused bytes of the client's space grant that the target may take for this operation. */
    grantOffered: opt(6, uint),
  }),
  message('FallocateReply', {
    attr: req(1, attr),
    /** Of what was offered. */
    grantTaken: opt(2, uint),
  }),
  'modifies',
);
/** lseek SEEK_DATA, SEEK_HOLE. ENXIO at or past the end. */
export const Seek = operation(
  100,
  'SEEK',
  message('SeekRequest', { fid: req(1, fid), offset: req(2, uint), what: req(3, oneOf('data', 'hole')) }),
  message('SeekReply', { offset: req(1, uint) }),
);
/** copy_file_range within the target. */
export const CopyRange = operation(
  101,
  'COPY_RANGE',
  message('CopyRangeRequest', {
    fromFid: req(1, fid),
    fromOffset: req(2, uint),
    toFid: req(3, fid),
    toOffset: req(4, uint),
    length: req(5, uint),
    time: opt(6, timespec),
    /** As in FALLOCATE. */
    grantOffered: opt(7, uint),
  }),
  message('CopyRangeReply', {
    copied: req(1, uint),
    attr: req(2, attr),
    /** Of what was offered. */
    grantTaken: opt(3, uint),
  }),
  'modifies',
);
