"""How addresses are given out on every node: the one record that says so, its rules, and its changes.

Calico: IPAMConfig (libcalico-go lib/ipam/ipam.go, GetIPAMConfig and SetIPAMConfig); the v3 resource with the same
content is IPAMConfiguration `default` (api/pkg/apis/projectcalico/v3/ipamconfig.go).
"""

from __future__ import annotations

from datastore import keys
from datastore.api import Conflict, Exists, Missing
from datastore.frozen import replace
from datastore.model import IpamConfig, config_json, config_of
from ipam.errors import BadRequest, Contended

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datastore.api import Json, Store

PERSISTENCE = "kubeVirtVMAddressPersistence"
PERSISTENCES = ("Enabled", "Disabled")
LONGEST_COOLDOWN = 1200  # seconds
MOST_BLOCKS = 2**31 - 1  # Calico's field is an int32 (IPAMConfigurationSpec)
TRIES = 100


def load(store: Store) -> IpamConfig:
    """Return the configuration; where nothing is stored, the defaults, which are not stored then. Raises Corrupt."""
    try:
        return config_of(store.get(keys.IPAM_CONFIG))
    except Missing:
        return IpamConfig()


def save(store: Store, **changes: object) -> IpamConfig:
    """Change fields of the configuration, named as in IpamConfig, and return it as it is now.

    The field `persistence` stands for kubeVirtVMAddressPersistence, Enabled or Disabled. Raises BadRequest when the
    outcome breaks a rule: nothing was changed then. Raises Corrupt, Contended.
    """
    for _ in range(TRIES):
        try:
            return _save(store, changes)
        except (Conflict, Exists, Missing):
            continue  # somebody else's change came first: decide anew
    raise Contended(f"record {keys.IPAM_CONFIG} kept changing; try again")


def changed(config: IpamConfig, **changes: object) -> IpamConfig:
    """Return the configuration with fields changed, as `save` takes them; raises BadRequest."""
    fields = dict(changes)
    if "persistence" in fields:
        fields["extra"] = {**config.extra, PERSISTENCE: fields.pop("persistence")}
    outcome = replace(config, **fields)
    validate(outcome)
    return outcome


def persistence(config: IpamConfig) -> str:
    """Return whether a virtual machine keeps its address: Enabled (also when nothing is said) or Disabled."""
    return str(config.extra.get(PERSISTENCE) or PERSISTENCES[0])


def spec_of(config: IpamConfig) -> Json:
    """Return the configuration as the spec of Calico's IPAMConfiguration."""
    return {
        "strictAffinity": config.strict_affinity,
        "autoAllocateBlocks": config.auto_allocate_blocks,
        "maxBlocksPerHost": config.max_blocks_per_host,
        PERSISTENCE: persistence(config),
        "ipCooldownSeconds": config.cooldown_seconds,
    }


def from_spec(spec: Json, stored: IpamConfig) -> IpamConfig:
    """Return the configuration that an IPAMConfiguration's spec asks for; what it leaves out has its default.

    Of the stored one, only what this release does not know is kept. Raises BadRequest.
    """
    defaults = IpamConfig()
    return changed(
        stored,
        strict_affinity=spec.get("strictAffinity", defaults.strict_affinity),
        auto_allocate_blocks=spec.get("autoAllocateBlocks", defaults.auto_allocate_blocks),
        max_blocks_per_host=spec.get("maxBlocksPerHost", defaults.max_blocks_per_host),
        cooldown_seconds=spec.get("ipCooldownSeconds", defaults.cooldown_seconds),
        persistence=spec.get(PERSISTENCE) or PERSISTENCES[0],
    )


def validate(config: IpamConfig) -> None:
    """Raise BadRequest, naming the field, when the values do not go together or are out of range."""
    if not config.strict_affinity and not config.auto_allocate_blocks:
        raise BadRequest("strictAffinity and autoAllocateBlocks cannot both be false: no address could be assigned")
    if not 0 <= config.max_blocks_per_host <= MOST_BLOCKS:
        raise BadRequest(f"maxBlocksPerHost is {config.max_blocks_per_host}: expected 0 (Calico's 20) to {MOST_BLOCKS}")
    if config.max_blocks_per_host and not config.strict_affinity:
        raise BadRequest(f"maxBlocksPerHost is {config.max_blocks_per_host}: a limit needs strictAffinity true")
    if not 0 <= config.cooldown_seconds <= LONGEST_COOLDOWN:
        raise BadRequest(f"ipCooldownSeconds is {config.cooldown_seconds}: expected 0 to {LONGEST_COOLDOWN}")
    if persistence(config) not in PERSISTENCES:
        raise BadRequest(f'{PERSISTENCE} is "{persistence(config)}": expected {" or ".join(PERSISTENCES)}')


def _save(store: Store, changes: dict[str, object]) -> IpamConfig:
    try:
        record = store.get(keys.IPAM_CONFIG)
    except Missing:
        return config_of(store.create(keys.IPAM_CONFIG, config_json(changed(IpamConfig(), **changes))))
    return config_of(store.update(record.key, config_json(changed(config_of(record), **changes)), record.revision))
