/** CRC-32C by the native addon, with the processor's instruction where it has one. */

import { nativeBinding } from '../../native/binding.js';
import type { Checksum } from './ports.js';

/** The first use loads the addon, so commands that touch no device work without it. */
export const nodeChecksum: Checksum = {
  crc32cBlocks: (data, blockBytes) => nativeBinding().crc32cBlocks(data, blockBytes),
};
