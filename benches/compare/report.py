"""Medians, ratios, the table and the JSON of the samples."""

import statistics

from load import PERCENTILES

UNITS = {"request": ("us/request", "requests/s"), "GiB": ("s/GiB", "GiB/s")}


def summary(values):
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def figures(work, samples):
    """The figures of one work by server, with narthex's ratio to each other one: of the medians,
    and the median of the ratios of each round."""
    servers = {}
    for name, taken in samples.items():
        servers[name] = {
            "cpu": summary([sample.cpu for sample in taken]),
            "cpu_of_both": summary([sample.cpu_of_both for sample in taken]),
            "rate": summary([sample.rate for sample in taken]),
            "latency_ms": {key: statistics.median(sample.latencies[key] for sample in taken)
                           for key, _ in PERCENTILES
                           if all(key in sample.latencies for sample in taken)},
        }
    for name, server in servers.items():
        if name != "narthex" and "narthex" in servers:
            server["narthex_ratio"] = (servers["narthex"]["cpu"]["median"]
                                       / max(server["cpu"]["median"], 1e-9))
            server["paired_ratio"] = statistics.median(
                ours.cpu / max(its.cpu, 1e-9)
                for ours, its in zip(samples["narthex"], samples[name]))
    cpu_unit, rate_unit = UNITS[work.unit]
    return {"cpu_unit": cpu_unit, "rate_unit": rate_unit, "servers": servers}


def digits(value):
    """Three significant digits, never in powers of ten."""
    for limit, places in [(1, 3), (10, 2), (100, 1)]:
        if abs(value) < limit:
            return f"{value:.{places}f}"
    return f"{value:.0f}"


def show_work(name, row, everybody):
    """Prints the block of one work."""
    print(f"\n{name}: CPU in {row['cpu_unit']}, rate in {row['rate_unit']}, latency in ms")
    print(f"  {'':15}{'CPU':>8}  {'(min-max)':17}{'both':>8}{'rate':>9}"
          + "".join(f"{key:>9}" for key, _ in PERCENTILES) + f"{'narthex/it':>12}{'paired':>8}")
    for server in everybody:
        found = row["servers"].get(server)
        if not found:
            print(f"  {server:15}{'-':>8}")
            continue
        cpu, latency = found["cpu"], found["latency_ms"]
        spread = f"({digits(cpu['min'])}-{digits(cpu['max'])})"
        waits = "".join(f"{digits(latency[key]) if key in latency else '-':>9}"
                        for key, _ in PERCENTILES)
        ratio = (f"{found['narthex_ratio']:>12.2f}{found['paired_ratio']:>8.2f}"
                 if "narthex_ratio" in found else "")
        print(f"  {server:15}{digits(cpu['median']):>8}  {spread:17}"
              f"{digits(found['cpu_of_both']['median']):>8}"
              f"{digits(found['rate']['median']):>9}{waits}{ratio}".rstrip())


def show_table(title, columns, rows):
    """Prints rows of (server, values in the order of the columns); no value is "-"."""
    print(f"\n{title}")
    print(f"  {'':15}" + "".join(f"{column:>16}" for column in columns))
    for server, values in rows:
        cells = [digits(value) if value is not None else "-" for value in values]
        print(f"  {server:15}" + "".join(f"{cell:>16}" for cell in cells))


def memory(servers):
    """Resident memory of all processes of each server in MiB: now, and at most."""
    return {server.name: {"now_mib": server.memory("VmRSS"), "peak_mib": server.memory("VmHWM")}
            for server in servers}
