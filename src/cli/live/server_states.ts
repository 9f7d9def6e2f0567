/** The states of a server as the live pages say them. */

import type { ServerStateName } from '../../wire/admin.js';
import type { Tone } from './shapes.js';

export interface StateWords {
  readonly text: string;
  readonly tone: Tone;
}

export const SERVER_STATES: Readonly<Record<ServerStateName, StateWords>> = {
  standby: { text: 'standing by', tone: 'idle' },
  starting: { text: 'starting', tone: 'busy' },
  recovering: { text: 'recovering', tone: 'busy' },
  active: { text: 'active', tone: 'good' },
  draining: { text: 'shutting down', tone: 'busy' },
  committing: { text: 'shutting down', tone: 'busy' },
  stopped: { text: 'stopped', tone: 'idle' },
};
