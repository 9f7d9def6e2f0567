/**
 * What becomes of a client that connects, as a pure function of what the server has of it and what it says. docs/recovery/window.md has
 * the table, which a test prints from here; connect.ts does what is decided.
 */

export interface KnownOfClient {
  /** 'open': requests are executed, or will be when the recovery window ends. 'closed': there is no target yet, or none any more. */
  readonly server: 'open' | 'draining' | 'closed';
  /**
   * 'undrained export': it has recovered from a crash in this instance and has not had the active lock since. 'record': an
   * earlier instance left it, and the recovery window waits for the client.
   */
  readonly has: 'export' | 'undrained export' | 'record' | 'nothing';
  /** A later connection of this client is there. */
  readonly hasLater: boolean;
  /** The last writes of a client with this UUID are still being executed. */
  readonly isWriting: boolean;
}

export interface SaidByClient {
  /** Where it was last: nowhere, here, in the instance that its export recovered from, or in another one. */
  readonly cameFrom: 'nowhere' | 'this instance' | 'the one it recovered from' | 'another instance';
  /** It has the proof with which this client's session was made, and knows the client's secret. */
  readonly isTheClient: boolean;
}

export type ConnectDecision =
  /** It is not the client that it says it is, or this connection is older than the one there is. */
  | { readonly do: 'refuse'; readonly code: 'EACCES' | 'EAGAIN' }
  | { readonly do: 'wait'; readonly why: 'not active' | 'writing' }
  /** The export goes on with this connection. */
  | { readonly do: 'resume' }
  /** It did not hear that its recovery is over, and goes through it once more. */
  | { readonly do: 'recoverAgain' }
  /** leaves: what the server has of it goes first, as after a goodbye. If the server is full, the client waits. */
  | { readonly do: 'begin'; readonly leaves: boolean }
  /** Evicted instead, if the version gate or what it can replay says so. */
  | { readonly do: 'recover' }
  /** evicts: what the server has of it goes now. */
  | { readonly do: 'evicted'; readonly evicts: boolean };

export function decideConnect(known: KnownOfClient, said: SaidByClient): ConnectDecision {
  // First of all: nothing of a client changes for a peer that only says that it is that client.
  if (!said.isTheClient) return { do: 'refuse', code: 'EACCES' };
  if (known.hasLater) return { do: 'refuse', code: 'EAGAIN' };
  if (!admits(known, said)) return { do: 'wait', why: 'not active' };
  if (known.isWriting) return { do: 'wait', why: 'writing' };
  const hasExport = known.has === 'export' || known.has === 'undrained export';
  switch (said.cameFrom) {
    case 'nowhere':
      return { do: 'begin', leaves: hasExport };
    case 'this instance':
      return hasExport ? { do: 'resume' } : { do: 'evicted', evicts: false };
    case 'the one it recovered from':
      if (hasExport) return { do: 'recoverAgain' };
      break;
    case 'another instance':
      break;
  }
  if (known.has === 'record') return { do: 'recover' };
  return { do: 'evicted', evicts: hasExport };
}

/** A client that lost its connection in the middle of the drain, or right before it, must be able to finish it. */
function admits({ server, has }: KnownOfClient, { cameFrom }: SaidByClient): boolean {
  if (server !== 'draining') return server === 'open';
  return has === 'undrained export' || (has === 'export' && cameFrom === 'this instance');
}
