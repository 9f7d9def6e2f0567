/** All filesystems that Holdfast is compared with, in the order of the table's columns. */

import type { Peer } from '../peer.js';
import { GLUSTERFS } from './glusterfs.js';
import { EXT4, PASSTHROUGH } from './local.js';
import { MOOSEFS } from './moosefs.js';
import { SSHFS } from './sshfs.js';

export const ALL_PEERS: readonly Peer[] = [EXT4, PASSTHROUGH, SSHFS, GLUSTERFS, MOOSEFS];
