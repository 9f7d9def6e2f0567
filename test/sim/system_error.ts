/** What a system call of a simulated process fails with. */

import { type Errno, errnoName } from '../../src/base/errno.js';

export class SystemError extends Error {
  override name = 'SystemError';
  readonly code: Errno;
  /** The system call, or the opcode of its request. */
  readonly call: string;
  constructor(errno: number, call: string) {
    super(`${call}: ${errnoName(errno)}`);
    this.code = errnoName(errno);
    this.call = call;
  }
}
