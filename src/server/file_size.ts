/** The largest file is the store's matter; that it answers EFBIG before anything is tried, ours. */

import { FsError } from '../base/errno.js';
import { FILE_MAX_BYTES } from '../storage/file_data.js';

/** @throws FsError EFBIG */
export function checkSize(sizeBytes: number): void {
  if (sizeBytes > FILE_MAX_BYTES) throw new FsError('EFBIG', `a file of more than ${FILE_MAX_BYTES} bytes`);
}
