/**
 * Branded identities: the compiler refuses a transno where an xid is wanted.
 *
 * A FID is a safe integer: 10 bits of target index above 43 bits of object number. It is the inode number, the FUSE
 * nodeid and the key on disk, so no table has to map one to another. FIDs are never reused.
 */

export type Fid = number & { readonly unit: 'fid' };
export type Xid = number & { readonly unit: 'xid' };
/** Order number of a change on one target; 0 means "changed nothing". The high bits hold the boot epoch. */
export type Transno = number & { readonly unit: 'transno' };
/** File handle. The client chooses it, unique for the life of its UUID, so a replayed open keeps it. */
export type Fh = number & { readonly unit: 'fh' };
/** Handle of one granted or waiting lock. The server chooses it, unique for one server instance. */
export type LockHandle = number & { readonly unit: 'lockHandle' };
/** Lower-case UUID of a client process. */
export type ClientUuid = string & { readonly unit: 'clientUuid' };
export type TargetUuid = string & { readonly unit: 'targetUuid' };
/**
 * A file name: one UTF-16 unit for each byte, 0x01-0xff without '/', 1 to 255 of them. Names are bytes, not text;
 * `Buffer.from(name, 'latin1')` gives them back unchanged.
 */
export type Name = string & { readonly unit: 'name' };

const OBJECT_BITS = 43;
const OBJECT_SPAN = 2 ** OBJECT_BITS;
export const TARGET_INDEX_MAX = 2 ** 10 - 1;

/** The root directory. Lives on target 0. */
export const ROOT_FID = 1 as Fid;
/** First object number that a target hands out; lower ones are the filesystem's own. */
export const FIRST_OBJECT = 16;

export function targetIndexOf(fid: Fid): number {
  return Math.floor(fid / OBJECT_SPAN);
}

/** @throws RangeError if a part does not fit its bits; callers pass values they made or checked. */
export function fidOf(targetIndex: number, object: number): Fid {
  if (!(targetIndex >= 0 && targetIndex <= TARGET_INDEX_MAX && object > 0 && object < OBJECT_SPAN)) {
    throw new RangeError(`fid parts out of range: target ${targetIndex}, object ${object}`);
  }
  return (targetIndex * OBJECT_SPAN + object) as Fid;
}

export function objectOf(fid: Fid): number {
  return fid % OBJECT_SPAN;
}

export const NAME_MAX = 255;

/**
 * A name as quoted text for people. Bytes that are not UTF-8 become U+FFFD, control characters are escaped. Never
 * parsed back.
 */
export function displayName(name: string): string {
  return JSON.stringify(Buffer.from(name, 'latin1').toString('utf8'));
}
