/**
 * BATCH: operations that the client has executed by itself and answered to its programs, in their order. FEATURE.batch.
 *
 * The server executes all of them in the turn in which the message arrives, as one transaction with one transno, or none. The
 * client holds the own lock of each directory that it names (UPDATE|ATTR EX), or has made the directory by the same message.
 * So no other client can see, hold or change what it touches, and nothing can refuse it. If the server has to refuse a BATCH,
 * the client does not keep the protocol, and the server evicts it.
 *
 * `time` in an operation is always obeyed: the client has told its programs of it. `want` in a CREATE is obeyed, and the locks
 * come with the answer. `fh`, `flags` and `position` of a CREATE are not used, nor is `sizeBytes` of a SETATTR.
 */

import { grants } from './lock.js';
import { CONTENT_MAX, Create, Rename, Setattr, Unlink } from './meta.js';
import { operation } from './operation.js';
import { attr, fid, list, message, nested, type Of, opt, req, timespec, u16, uint } from './schema.js';

/** Most operations in one BATCH. */
export const BATCH_MAX = 128;
/** Most bytes of content in one BATCH. */
export const BATCH_BULK_MAX = 256 << 10;
/** Most bytes of a file whose content goes with a BATCH: it lies in the meta store, and its transaction has it whole. */
export const BATCH_CONTENT_MAX = CONTENT_MAX;

const OPERATION_COST_BYTES = 2048;

/**
 * What one entry of a BATCH costs of the metadata grant, in bytes of the meta store: more than it takes there. Client and
 * server both count by this rule; `grantUsed` is the sum over the entries.
 * @param nameBytes bytes of the names in the operation, and of the text of a symbolic link; 0 for SETATTR and a content.
 * @param contentBytes `lengthBytes` of a content; 0 for an operation.
 */
export function operationCost(nameBytes: number, contentBytes: number): number {
  return OPERATION_COST_BYTES + 4 * nameBytes + 2 * contentBytes;
}

/** The whole content of a file that an earlier operation of the same BATCH has made. */
export const Content = message('Content', {
  fid: req(1, fid),
  /** Becomes mtime of the file, and ctime if that does not go back. */
  mtime: req(2, timespec),
  /** Bytes of the bulk. The contents lie in it one behind the other. */
  lengthBytes: req(3, u16),
});

/** Exactly one field is there. */
export const BatchedOperation = message('BatchedOperation', {
  create: opt(1, nested(Create.request)),
  setattr: opt(2, nested(Setattr.request)),
  unlink: opt(3, nested(Unlink.request)),
  rename: opt(4, nested(Rename.request)),
  content: opt(5, nested(Content)),
});

export const Batch = operation(
  80,
  'BATCH',
  message('BatchRequest', {
    operations: req(1, list(nested(BatchedOperation), BATCH_MAX)),
    /** Bytes of the client's metadata grant that the operations use up. */
    grantUsed: req(2, uint),
    /** For replays: what the first answer said. */
    positions: opt(3, list(uint, BATCH_MAX)),
  }),
  message('BatchReply', {
    /** For each CREATE that makes something that still exists: what its `want` asks for. */
    locks: req(1, grants),
    /** Bytes added to the client's metadata grant. */
    grantBytes: req(2, uint),
    /** Where the name of each CREATE and each RENAME lies in its directory, in their order; see `position` in meta.ts. */
    positions: req(3, list(uint, BATCH_MAX)),
    /** The directories whose names have changed and that still exist, as they are now. */
    directories: req(4, list(attr, 2 * BATCH_MAX)),
  }),
  'modifies',
);

export type BatchedOperationMessage = Of<typeof BatchedOperation>;
