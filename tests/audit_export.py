#!/usr/bin/env python3
"""Checks a file of `dat audit export`, as docs/audit-export.md says. A second implementation: it shares nothing with DAT.

audit_export.py FILE [SETTINGS.toml]: the keys that are believed are [[verdict_key]] and [[checkpoint_key]] of SETTINGS.
Prints a line for each fault, then a summary; exit status 1 if there is a fault. Python 3.11, standard library only.
"""
import base64, hashlib, json, sys, tomllib
from datetime import datetime
from decimal import Decimal


# RFC 8785: members sorted by UTF-16 code units, numbers as ECMAScript prints them.
def canonical(value):
    if isinstance(value, dict):
        members = sorted(value.items(), key=lambda item: item[0].encode("utf-16-be", "surrogatepass"))
        return "{" + ",".join(f"{canonical(name)}:{canonical(member)}" for name, member in members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value)
    return json.dumps(value, ensure_ascii=False)


def number(value):
    if isinstance(value, int) and abs(value) < 2**53:
        return str(value)
    value = float(value)
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    _, digits, exponent = Decimal(repr(abs(value))).normalize().as_tuple()
    digits = "".join(map(str, digits))
    point = len(digits) + exponent
    if len(digits) <= point <= 21:
        return sign + digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return sign + digits[:point] + "." + digits[point:]
    if -6 < point <= 0:
        return sign + "0." + "0" * -point + digits
    fraction = "." + digits[1:] if digits[1:] else ""
    return f"{sign}{digits[0]}{fraction}e{point - 1:+d}"


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


# Ed25519 (RFC 8032, section 6), for checking alone.
P, Q = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT = pow(2, (P - 1) // 4, P)

def add(a, b):
    u, v = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    t, z = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = v - u, z - t, z + t, v + u
    return (e * f % P, g * h % P, f * g % P, e * h % P)

def times(factor, point):
    result = (0, 1, 1, 0)
    while factor:
        if factor & 1:
            result = add(result, point)
        point, factor = add(point, point), factor >> 1
    return result

def x_of(y, odd):
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT % P
    if y >= P or (x * x - square) % P or (x == 0 and odd):
        raise ValueError("no point of the curve")
    return x if x & 1 == odd else P - x

def point_of(data):
    y = int.from_bytes(data, "little")
    y, odd = y & (2**255 - 1), y >> 255
    x = x_of(y, odd)
    return (x, y, 1, x * y % P)

BASE_Y = 4 * pow(5, P - 2, P) % P
BASE = (x_of(BASE_Y, 0), BASE_Y, 1, x_of(BASE_Y, 0) * BASE_Y % P)

def signed_by(key, message, signature):
    if len(signature) != 64:
        return False
    r, s = signature[:32], int.from_bytes(signature[32:], "little")
    try:
        a, big_r = point_of(key), point_of(r)
    except ValueError:
        return False
    h = int.from_bytes(hashlib.sha512(r + key + message).digest(), "little") % Q
    left, right = times(s, BASE), add(big_r, times(h, a))
    same = all((left[i] * right[2] - right[i] * left[2]) % P == 0 for i in (0, 1))
    return s < Q and same


def why_not_signed(value, at, keys):
    """None where a key that was believed at that moment signed the object."""
    key = keys.get(value.get("key_id"))
    if key is None or "signature" not in value:
        return f"key '{value.get('key_id')}' is not one that is trusted here, or it is not signed"
    from_, until = key.get("not_before"), key.get("not_after")
    if (from_ and at < moment(from_)) or (until and at >= moment(until)):
        return f"key '{value['key_id']}' is not believed at {at}"
    public = key["public_key"]
    public = bytes.fromhex(public) if len(public) == 64 else base64.b64decode(public)
    message = canonical({name: member for name, member in value.items() if name != "signature"}).encode()
    if not signed_by(public, message, base64.b64decode(value["signature"])):
        return f"the signature is not that of key '{value['key_id']}'"


def moment(text):
    return text if isinstance(text, datetime) else datetime.fromisoformat(text)


# RFC 9162, section 2.1.3.2.
def holds(checkpoint, leaf, place, proof):
    node, last = sha256(b"\0", canonical(leaf).encode()), checkpoint["leaves"] - 1
    if place > last:
        return False
    for other in map(bytes.fromhex, proof):
        if last == 0:
            return False
        if place & 1 or place == last:
            node = sha256(b"\1", other, node)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            node = sha256(b"\1", node, other)
        place, last = place >> 1, last >> 1
    return last == 0 and node.hex() == checkpoint["root"]


def check(export, keys):
    plan = f"{export['plan_id']}/{export['plan_version']}"
    before, registered, told, spent = bytes(32), None, [], 0
    for place, event in enumerate(export["events"], 1):
        envelope = event["envelope"]
        kind, data = envelope["type"].removeprefix("dat."), envelope["data"]
        if sha256(before, canonical(envelope).encode()).hex() != event["hash"]:
            yield f"event {place} ({kind}) does not hash to what was chained"
        if envelope["sequence"] != str(place) or envelope["id"] != f"{plan}/{place}":
            yield f"event {place} says that it is {envelope['id']}"
        before = bytes.fromhex(event["hash"])
        registered = data.get("plan_hash") if kind == "plan.draft" else registered
        outcomes = [outcome for _, outcome, _ in told]
        if kind == "step.running" and ("approved" not in outcomes or "revoked" in outcomes):
            yield f"event {place} starts step {data.get('step')} without an approval"
        if kind in ("plan.approved", "plan.rejected", "plan.revoked") and "verdict" in data:
            told.append((data["verdict"], kind.removeprefix("plan."), moment(envelope["time"])))
        spent += {"spend.incurred": 1, "refund.issued": -1}.get(kind, 0) * data.get("amount", 0)
    plan_hash = "sha256:" + sha256(canonical(export["plan"]).encode()).hex()
    if plan_hash != registered:
        yield f"the plan hashes to {plan_hash}, its events registered {registered}"
    for verdict in export["verdicts"]:
        name = f"the verdict {verdict.get('decision_id')}"
        if (verdict["plan_id"], verdict["plan_version"]) != (export["plan_id"], export["plan_version"]):
            yield f"{name} is of plan {verdict['plan_id']}/{verdict['plan_version']}"
        if verdict["plan_hash"] != registered:
            yield f"{name} is of {verdict['plan_hash']}"
        times_ = [at for value, outcome, at in told if (value, outcome) == (verdict, verdict["outcome"])]
        if not times_:
            yield f"{name} is in no event"
        elif keys["verdict"] and (why := why_not_signed(verdict, times_[0], keys["verdict"])):
            yield f"{name} does not stand: {why}"
    for value, outcome, _ in told:
        if value not in export["verdicts"]:
            yield f"an event holds a verdict ({outcome}) that is not in the file"
    for seal in export["seals"]:
        leaf, checkpoint = seal["leaf"], seal["checkpoint"]
        name, last = f"checkpoint {checkpoint['number']}", leaf["last_sequence"]
        if (leaf["plan_id"], leaf["plan_version"]) != (export["plan_id"], export["plan_version"]):
            yield f"{name}: its leaf is of {leaf['plan_id']}/{leaf['plan_version']}"
        if last > len(export["events"]):
            yield f"{name}: it sealed the stream up to event {last}, it ends at {len(export['events'])}"
        elif export["events"][last - 1]["hash"] != leaf["last_hash"]:
            yield f"{name}: event {last} is another than it sealed"
        if not holds(checkpoint, leaf, seal["place"], seal["proof"]):
            yield f"{name}: its root does not hold the leaf"
        if keys["checkpoint"] and (why := why_not_signed(checkpoint, moment(checkpoint["at"]), keys["checkpoint"])):
            yield f"{name}: {why}"
    export["spent"] = spent


def main(path, settings=None):
    said = tomllib.load(open(settings, "rb")) if settings else {}
    keys = {what: {key["key_id"]: key for key in said.get(f"{what}_key", [])} for what in ("verdict", "checkpoint")}
    export = json.load(open(path, encoding="utf-8"))
    faults = list(check(export, keys))
    sealed = max((seal["leaf"]["last_sequence"] for seal in export["seals"]), default=0)
    print(*faults, sep="\n", end="\n" if faults else "")
    print(f"{len(export['events'])} events, sealed up to {sealed}, {export['spent']} spent, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
