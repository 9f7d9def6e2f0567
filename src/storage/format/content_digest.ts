/**
 * What an inode says of the records that hold its content: one digest of all of them.
 *
 * A record's own checksum says that its bytes were once written. It does not say that the record is the newest version,
 * nor that no record is missing. The inode lies on another database page than the block maps, and its digest changes
 * with each change of one of them. So if a page is an older version of itself, or lost its records, it does not agree
 * with the inode any more.
 *
 * The digest is the exclusive or of one number for each record: a change takes out the number of the old record and
 * puts in the number of the new one. The server compares it at the first use of a file after a start; from then on the
 * server itself knows the content.
 */

import type { Checksum } from '../../runtime/ports.js';
import type { BlockMap } from './block_map.js';
import { crc32c } from './superblock.js';

const INLINE = 0x496e_6c6e;

/** Spreads the bits: without this, the exclusive or of linear checksums can cancel out. */
function mixed(value: number): number {
  let bits = value | 0;
  bits = Math.imul(bits ^ (bits >>> 16), 0x85eb_ca6b);
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2_ae35);
  return (bits ^ (bits >>> 16)) >>> 0;
}

/** 0 for a missing block map. */
export function blockMapDigest(
  checksum: Checksum,
  index: number,
  blockMap: BlockMap | null | undefined,
): number {
  if (blockMap === null || blockMap === undefined) return 0;
  blockMap.crcOfAll ??= crc32c(checksum, blockMap.bytes);
  // Block maps with the same content at different places of a file count differently.
  return mixed(blockMap.crcOfAll ^ mixed(index + 1));
}

/** 0 if there is no inline data. */
export function inlineDigest(checksum: Checksum, bytes: Buffer | null | undefined): number {
  return bytes === null || bytes === undefined ? 0 : mixed(crc32c(checksum, bytes) ^ INLINE);
}
