/** What code that works on a file for a caller carries along: the caller, what it depends on, and the file. */

import type { Lifetime } from '../../base/lifetime.js';
import type { Caller } from '../api.js';
import type { FileState } from '../cache/file_state.js';
import type { TargetSession } from '../session/target_session.js';

export interface FileUse {
  readonly op: Caller;
  /**
   * Each wait goes through it. It is the handle's for a call through a handle, the session's for what the kernel writes back,
   * and ACROSS_SESSIONS for an operation by name.
   */
  readonly life: Lifetime;
  readonly target: TargetSession;
  readonly file: FileState;
}
