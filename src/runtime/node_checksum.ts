/** CRC-32C by the native addon: the processor's instruction where there is one. */

import { nativeBinding } from '../../native/binding.js';
import type { Checksum } from './ports.js';

/** The addon is loaded by the first use: commands that touch no device work without it. */
export const nodeChecksum: Checksum = {
  crc32cBlocks: (data, blockBytes) => nativeBinding().crc32cBlocks(data, blockBytes),
};
