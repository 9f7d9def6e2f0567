/** What a system call of a simulated process fails with. */

import { type Errno, errnoName } from '../../src/base/errno.js';

export class SystemError extends Error {
  override name = 'SystemError';
  readonly code: Errno;
  constructor(errno: number, call: string) {
    super(`${call}: ${errnoName(errno)}`);
    this.code = errnoName(errno);
  }
}
