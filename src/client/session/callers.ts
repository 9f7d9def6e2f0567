/**
 * Calls for a process, to a target that checks what its user may do (CONNECT: restricted.squashRoot). To all others the client sends
 * nothing of it: its kernel has checked the permission.
 *
 * The kernel names user and group of a process, and not its other groups. Looking them up for each call would cost more than the call, and
 * few calls need them. So a call that is refused is made once more, with the groups. Calls that would be answered without them, and do
 * less than they ask (set-group-id bits), take the groups at once.
 */

import { FsError } from '../../base/errno.js';
import type { Answer, CallOptions } from '../../rpc/api.js';
import type { CallerOnWire } from '../../wire/caller.js';
import type { Operation } from '../../wire/operation.js';
import type { Caller, ClientOptions } from '../api.js';
import type { CallKind } from './outgoing.js';
import type { TargetSession } from './target_session.js';

/** Who asks. `signal` ends its wait; undefined: nothing does. pid: undefined when nobody waits any more. */
export type Asker = Pick<Caller, 'uid' | 'gid' | 'pid'> & { readonly signal: AbortSignal | undefined };

/** A call that its caller cannot be interrupted in. */
export function uninterrupted({ uid, gid, pid }: Asker): Asker {
  return { uid, gid, pid, signal: undefined };
}

/** A call that goes on when the process has its answer: by then the number of the process may be another's. */
export function inBackground({ uid, gid }: Asker): Asker {
  return { uid, gid, pid: undefined, signal: undefined };
}

interface CallAs<R> extends Omit<CallOptions<R>, 'signal'> {
  readonly kind: CallKind;
  /** The answer depends on the groups, and is no refusal without them. */
  readonly needsGroups?: boolean | undefined;
}

/** As Outgoing.call(). A request whose message has no `caller` is sent as it is. */
export function callAs<Q, R>(
  target: TargetSession,
  asker: Asker | undefined,
  groupsOf: ClientOptions['groupsOf'],
  operation: Operation<Q, R>,
  request: Q,
  { kind, needsGroups, ...options }: CallAs<R>,
): Promise<Answer<R>> {
  if (asker === undefined || !target.squashesRoot) return target.call(kind, operation, request, options);
  const { uid, gid } = asker;
  const send = (groups: readonly number[] | undefined): Promise<Answer<R>> => {
    const caller: CallerOnWire = { uid, gid, groups };
    return target.call(kind, operation, { ...request, caller }, options);
  };
  if (needsGroups === true) return send(groupsOf?.(asker));
  return send(undefined).catch((error: unknown) => {
    const groups = isRefusal(error) && asker.signal?.aborted !== true ? groupsOf?.(asker) : undefined;
    if (groups === undefined || groups.length === 0) throw error;
    return send(groups);
  });
}

export function isRefusal(error: unknown): boolean {
  return error instanceof FsError && (error.code === 'EACCES' || error.code === 'EPERM');
}
