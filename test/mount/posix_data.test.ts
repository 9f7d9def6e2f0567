/** File contents: reading, writing, sizes, holes, mappings, on a native mount. */

import { dataSuite } from '../fixtures/posix_data.js';
import { posixSuite } from '../fixtures/posix_suite.js';
import { sharedCluster } from '../fixtures/shared_cluster.js';

dataSuite(posixSuite(sharedCluster()));
