"""Label on a Ray cluster of two nodes on this machine, kill one half-way, compare with no cluster.

    python scripts/ray_nodes.py LIST RUN

LIST names the videos, RUN is a run folder. The two tables must be equal to the byte.
"""

import argparse
import filecmp
import sys
import tempfile
import threading
import time
from pathlib import Path

from ray.cluster_utils import Cluster

from st_adapter import label_videos
from st_adapter.common.remarks import show_remarks


def main(listed: Path, run: Path) -> int:
    """Return 1 if the tables differ."""
    show_remarks()
    with tempfile.TemporaryDirectory() as folder:
        alone, on_ray = Path(folder, "alone.jsonl"), Path(folder, "ray.jsonl")
        label_videos(run, listed, alone, workers=0, device="cpu")
        # The head has no cores, so that all actors are on nodes that can be lost.
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        try:
            killer = threading.Thread(target=kill_half_way, args=(cluster, nodes[0], on_ray))
            killer.start()
            began = time.monotonic()
            done = label_videos(run, listed, on_ray, device="cpu", ray=cluster.address)
            print(f"{done.num_videos:,} videos on Ray in {time.monotonic() - began:.0f} s")
            killer.join()
        finally:
            cluster.shutdown()
        same = filecmp.cmp(alone, on_ray, shallow=False)
    print("equal to the byte" if same else "THE TABLES DIFFER")
    return not same


def kill_half_way(cluster: Cluster, node: object, out: Path) -> None:
    """Kill a node as soon as the first rows are written."""
    folder = out.with_name(f"{out.name}.parts")
    while not [*folder.glob("0*.jsonl")]:
        if out.exists():
            raise SystemExit("the table was finished before a node could be killed")
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)
    print("killed one of two nodes", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("listed", type=Path, metavar="LIST")
    parser.add_argument("run", type=Path, metavar="RUN")
    given = parser.parse_args()
    sys.exit(main(given.listed, given.run))
