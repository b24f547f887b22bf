"""What the zoo showed, in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from tables import markdown

TOLERANCE = 1e-9
MEDIAN_S, LONGEST_S = 5, 60
Network = Mapping[str, Any]


def text(result: Mapping[str, Any]) -> str:
    """Return the whole page."""
    networks, styles = result["networks"], result["styles"]
    peers = [network for network in networks if "peer" in network]
    failures = list(_failures(networks, styles))
    kept = list(_kept(networks, styles))
    parts = [
        "# The zoo",
        "Made by `python benchmarks/zoo.py`: random weights, half of every group's channels closed, three mask styles. "
        "Differences are in float64 against the eager masked network, relative to its largest output, the largest of "
        "the styles; *n of m* are channels removed of those closed; the cut of MACs is in the style `groups`; seconds "
        "are CPU time of one thread, the median of the styles, without `torch.export`, whose own are beside.",
        markdown(list(_summary(networks, styles))),
        markdown([_row(network, styles) for network in networks]),
    ]
    if peers:
        parts += [
            "## Torch-Pruning " + next((n["peer"]["version"] for n in peers if "version" in n["peer"]), ""),
            "In the same run, half of the channels, no settings for any network but that 1000 classes stay. *Masked* "
            "has zeros wherever the pruned network has no entry, *rows* in the weights' rows alone, as a mask on "
            "weights leaves it. *Groups* are pruned one by one; under *wide norms* layer norms may lose channels.",
            markdown([_peer_row(network) for network in peers]),
        ]
    if kept:
        parts += ["## Closed channels that stayed", markdown(kept)]
    if failures:
        parts += ["## Failures", markdown(failures)]
    parts.append(f"{result['machine']}, torch {result['torch']}")
    return "\n\n".join(parts) + "\n"


def _summary(networks: Iterable[Network], styles: Iterable[str]) -> Iterable[dict[str, str]]:
    networks = list(networks)
    for style in styles:
        done = [network[style] for network in networks if _ran(network, style)]
        seconds = [one["seconds"] for one in done]
        yield {
            "style": style,
            "ran": f"{len(done)} of {len(networks)}",
            f"exact (≤ {TOLERANCE:g})": str(sum(one["difference"] <= TOLERANCE for one in done)),
            "everything closed removed": str(sum(not one["missing"] for one in done)) if style != "unaligned" else "",
            "no unknown operation": str(sum(not one["unknown_ops"] for one in done)),
            "own class": str(sum(one["not_own_class"] is None for one in done)),
            "ONNX Runtime equal": str(sum(one["onnx"] == "equal" for one in done if "onnx" in one) or ""),
            f"median s (≤ {MEDIAN_S})": f"{median(seconds):.1f}" if seconds else "",
            f"longest s (≤ {LONGEST_S})": f"{max(seconds):.1f}" if seconds else "",
        }


def _ran(network: Network, style: str) -> bool:
    return "difference" in network.get(style, {})


def _row(network: Network, styles: Iterable[str]) -> dict[str, str]:
    runs = {style: network[style] for style in styles if _ran(network, style)}
    basic = network["network"]
    cut = runs["groups"]["macs"] if "groups" in runs else None
    row = {
        "network": network["name"],
        "parameters, M": f"{basic['parameters'] / 1e6:.1f}" if "parameters" in basic else "",
        "prunable groups": str(network.get("channels", {}).get("groups", "")),
        "sensitivity": f"{basic['sensitivity']:.2g}" if "sensitivity" in basic else "",
        "difference": f"{max(one['difference'] for one in runs.values()):.0e}" if runs else "",
    }
    for style in styles:
        of = "" if style == "unaligned" else f" of {runs[style]['asked'] if style in runs else ''}"
        row[f"removed: {style}"] = f"{runs[style]['removed']}{of}" if style in runs else "failed"
    unknown = sorted({op for one in runs.values() for op in one["unknown_ops"]})
    return row | {
        "unknown operations": ", ".join(unknown),
        "MACs cut": f"{1 - cut[1] / cut[0]:.2f}" if cut else "",
        "s": f"{median(one['seconds'] for one in runs.values()):.1f}" if runs else "",
        "export, s": f"{median(one['export_s'] for one in runs.values()):.1f}" if runs else "",
        "own class": f"{sum(one['not_own_class'] is None for one in runs.values())} of {len(runs)}",
        "ONNX Runtime": _cell(next((one["onnx"] for one in runs.values() if "onnx" in one), "")),
    }


def _peer_row(network: Network) -> dict[str, str]:
    peer = network["peer"]
    forward = peer.get("forward", "")
    return {
        "network": network["name"],
        "prunes": _cell(peer["prune"]),
        "result runs": _cell(forward),
        "difference to masked": _equality(peer, "difference"),
        "to rows": _equality(peer, "difference_to_rows"),
        "parameters removed": f"{peer['removed']:.2f}" if "removed" in peer else "",
        "s": f"{peer['seconds']:.1f}" if "seconds" in peer else "",
        "groups": str(peer.get("groups", "")),
        "ours": str(network.get("channels", {}).get("groups", "")),
        "ours, wide norms": str(network.get("channels", {}).get("groups_wide", "")),
    }


def _equality(peer: Mapping[str, Any], key: str) -> str:
    if key not in peer:
        return ""
    found = peer[key]
    return "other shape" if found is None else "equal" if found <= TOLERANCE else f"{found:.0e}"


def _kept(networks: Iterable[Network], styles: Iterable[str]) -> Iterable[dict[str, str]]:
    """Yield the reasons for which closed channels stayed, with how many groups."""
    for network in networks:
        for style in styles:
            missing = network.get(style, {}).get("missing", {})
            reasons = Counter(reason.partition(": ")[2] for reason in missing.values())
            for reason, count in reasons.most_common(3):
                yield {"network": network["name"], "style": style, "groups": str(count), "reason": _cell(reason)}


def _failures(networks: Iterable[Network], styles: Iterable[str]) -> Iterable[dict[str, str]]:
    for network in networks:
        for part in ("network", "channels", *styles):
            found = network.get(part, {})
            if "error" in found:
                place = f" ({found['place']})" if found.get("place") else ""
                yield {"network": network["name"], "where": part, "what": _cell(found["error"]) + place}


def _cell(words: str) -> str:
    """Keep a message within a cell of a table."""
    return words.replace("|", "\\|").replace("\n", " ")[:160]
