/**
 * Encoders of notifications: messages to the kernel that answer no request. Each is a fuse_out_header with the code in
 * `error` and unique 0, then a struct. Source: linux/fuse.h, enum fuse_notify_code.
 *
 * In the kernel, INVAL_INODE with a range waits for pages under an unanswered READ, and INVAL_ENTRY for any unanswered
 * operation in the directory. INC_EPOCH and an INVAL_INODE of attributes only wait for nothing.
 */

import { EXPIRE_ONLY, NOTIFY, SIZE } from './constants.js';
import { Writer } from './cursor.js';

function notification(code: number, bodyBytes: number): Writer {
  const writer = new Writer(Buffer.alloc(SIZE.OUT_HEADER + bodyBytes));
  writer.u32(0, SIZE.OUT_HEADER + bodyBytes);
  writer.u32(4, code);
  return writer;
}

/**
 * fuse_notify_inval_inode_out: drops attributes, and cached pages of [offset, offset + length).
 * @param offset below 0: attributes only.
 * @param length 0: to the end of the file.
 */
export function encodeInvalInode(nodeid: number, offset: number, length: number): Buffer {
  const writer = notification(NOTIFY.INVAL_INODE, SIZE.NOTIFY_INVAL_INODE);
  writer.i64(16, nodeid);
  writer.i64(24, offset);
  writer.i64(32, length);
  return writer.bytes;
}

/**
 * fuse_notify_inval_entry_out and a name.
 * @param expireOnly the kernel looks the dentry up again at its next use (HAS_EXPIRE_ONLY); else it drops the dentry
 * and those below it.
 */
export function encodeInvalEntry(parent: number, name: string, expireOnly: boolean): Buffer {
  const writer = notification(NOTIFY.INVAL_ENTRY, SIZE.NOTIFY_INVAL_ENTRY + name.length + 1);
  writer.i64(16, parent);
  writer.u32(24, name.length);
  writer.u32(28, expireOnly ? EXPIRE_ONLY : 0);
  writer.bytes.write(name, 32, 'latin1');
  return writer.bytes;
}

/**
 * fuse_notify_delete_out and a name: the entry is gone, and the kernel tells watchers so. It ignores this unless the
 * name leads to `child`.
 */
export function encodeDelete(parent: number, child: number, name: string): Buffer {
  const writer = notification(NOTIFY.DELETE, SIZE.NOTIFY_DELETE + name.length + 1);
  writer.i64(16, parent);
  writer.i64(24, child);
  writer.u32(32, name.length);
  writer.bytes.write(name, 40, 'latin1');
  return writer.bytes;
}

/** Makes the kernel look up every dentry of the mount once more. From minor MINOR_WITH_INC_EPOCH. */
export function encodeIncEpoch(): Buffer {
  return notification(NOTIFY.INC_EPOCH, 0).bytes;
}

/**
 * Makes the kernel send again all requests that we have read and not answered, marked in unique. From minor
 * MINOR_WITH_RESEND.
 */
export function encodeResend(): Buffer {
  return notification(NOTIFY.RESEND, 0).bytes;
}
