/** The server as its parts see it: state that outlives a target, and the target once there is one. */

import type { LimitTime, Runtime } from '../../runtime/ports.js';
import type { ServerStateName } from '../../wire/admin.js';
import type { PlainAccess } from '../access/peers.js';
import type { RecoveryWindow } from '../lifecycle/recovery_window.js';
import type { ServedTarget } from '../target/served_target.js';
import type { ConnectWait } from './connect_wait.js';

export interface ServerSettings {
  /** Version of the running program: VERSION+DIGEST, see cli/installed.ts. */
  readonly softwareVersion: string;
  /** X.Y.Z: clients below it are refused. */
  readonly lowestPeer: string | undefined;
  readonly forceStart: boolean;
  readonly drainTimeoutMs: number;
  readonly lockTimeoutMs: number;
  readonly recoverySoftMs: number;
  readonly recoveryHardMs: number;
  readonly pingIntervalMs: number;
  readonly disconnectedMs: number;
  /** New clients wait while this many are here. Default 10,000. */
  readonly clientsMax: number;
  /** Connections that may be open at one time; the last of them are kept for administrators. */
  readonly connectionsMax: number;
  /** Cache locks and open files of all clients together. */
  readonly locksMax: number;
  readonly opensMax: number;
  readonly pid: number | undefined;
  /** Connections without TLS that the server takes; undefined: none. */
  readonly plain: PlainAccess | undefined;
}

export interface ServerView {
  readonly runtime: Runtime;
  /** Limits on clients are measured by this time. */
  readonly time: LimitTime;
  readonly settings: ServerSettings;
  readonly state: ServerStateName;
  /** Nothing that comes from a client is executed any more, and nothing is decided about it: see ServerLife. */
  readonly isLeaving: boolean;
  readonly target: ServedTarget | undefined;
  /** For CONNECTs that come before the server has a target. */
  readonly connectWait: ConnectWait;
  readonly recovery: RecoveryWindow | undefined;
  /** A peer may not connect. why: one line for people. */
  refused(peer: string, why: string): void;
  /** @returns why one more client has to wait; undefined: it need not. */
  admitsClient(clients: number): string | undefined;
  /** Why a peer that is no administrator may not ask for the status through one more connection. */
  admitsWatcher(principal: string): string | undefined;
}
