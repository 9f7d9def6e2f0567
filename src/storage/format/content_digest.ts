/**
 * What an inode says of the records that hold its content: a digest of all of them together.
 *
 * A record's own checksum says that it is what was once written, not that it is the newest, nor that one that is missing
 * was never there. The inode lies on another page of the database than the block maps; its digest changes with each change of
 * one of them. So a page that is an older one of itself, or lost its records, does not agree with the inode any more.
 *
 * The digest is the exclusive or of one number for each record: a change takes out the number of the old record and puts
 * in that of the new one. It is compared when a file is first used after a start; from then on the server itself knows.
 */

import type { Checksum } from '../../runtime/ports.js';
import type { BlockMap } from './block_map.js';
import { crc32c } from './superblock.js';

const INLINE = 0x496e_6c6e;

/** Spreads the bits: sums of linear checksums cancel each other. */
function mixed(value: number): number {
  let bits = value | 0;
  bits = Math.imul(bits ^ (bits >>> 16), 0x85eb_ca6b);
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2_ae35);
  return (bits ^ (bits >>> 16)) >>> 0;
}

/** 0 without a block map. */
export function blockMapDigest(
  checksum: Checksum,
  index: number,
  blockMap: BlockMap | null | undefined,
): number {
  if (blockMap === null || blockMap === undefined) return 0;
  blockMap.crcOfAll ??= crc32c(checksum, blockMap.bytes);
  // BlockMaps with the same content at different places of a file count differently.
  return mixed(blockMap.crcOfAll ^ mixed(index + 1));
}

/** 0 without inline data. */
export function inlineDigest(checksum: Checksum, bytes: Buffer | null | undefined): number {
  return bytes === null || bytes === undefined ? 0 : mixed(crc32c(checksum, bytes) ^ INLINE);
}
