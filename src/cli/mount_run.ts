/** The client process behind `holdfast mount` (mount_start.ts), by the way in which it gets its mount. */

import type { MountOptions } from '../../mount/options.js';
import type { Source } from './common.js';
import type { Stored } from './descriptor_store.js';
import { goOnForKeeper, goOnFromStore } from './mount_after_death.js';
import { beginMount } from './mount_begin.js';
import type { Launch } from './mount_serve.js';
import { takeMountOver } from './mount_take_over.js';

export type MountWay =
  | { readonly kind: 'begin'; readonly options: MountOptions }
  | { readonly kind: 'take over' }
  | { readonly kind: 'for the keeper' }
  | { readonly kind: 'from the store'; readonly stored: Stored };

/** @param mountpoint absolute, without symbolic links. @returns when the mount has ended. */
export function runMount(source: Source, mountpoint: string, launch: Launch, way: MountWay): Promise<void> {
  switch (way.kind) {
    case 'begin':
      return beginMount(source, mountpoint, way.options, launch);
    case 'take over':
      return takeMountOver(source, mountpoint, launch);
    case 'for the keeper':
      return goOnForKeeper(source, mountpoint, launch);
    case 'from the store':
      return goOnFromStore(source, mountpoint, launch, way.stored);
  }
}
