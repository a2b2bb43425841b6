"""Libraries that look at the processor before they compute, and say what it lacks.

`main` calls a function of the library first, which is written in C for any processor of the
architecture. It asks once; what is missing becomes an error of TVM's runtime, as any other.
"""

from dataclasses import dataclass
from string import Template

import tvm
from tvm import relax

from mbv3c.execution.features import features_of, lacking_in_c
from mbv3c.targets.library.target import LibraryTarget, tvm_target

# What stops between kernels takes names with this beginning for the virtual machine's own.
_NAME = "vm.check_processor"

_SOURCE = Template("""\
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int count);

$lacking
__attribute__((visibility("default"))) int check(void *self, const void *arguments, int count,
                                                 void *result) __asm__("__tvm_ffi_$name");

int check(void *self, const void *arguments, int count, void *result) {
  static char fine;
  const char *parts[2 * $most + 2];
  unsigned from = 0;
  int used = 0;
  if (__atomic_load_n(&fine, __ATOMIC_RELAXED)) return 0;
  for (const char *next; (next = lacking(&from)) != 0;) {
    parts[used] = used == 0 ? "this library is for $target, and the processor has no " : ", no ";
    parts[used + 1] = next;
    used += 2;
  }
  if (used == 0) {
    __atomic_store_n(&fine, 1, __ATOMIC_RELAXED);
    return 0;
  }
  parts[used++] = "; compile for a target that needs none: `mbv3c targets` lists them";
  TVMFFIErrorSetRaisedFromCStrParts("RuntimeError", parts, used);
  return -1;
}
""")


@dataclass(frozen=True)
class Guarded:
    """A module whose functions check the processor.

    Attributes:
        module: the module.
        source: the check in C, to be linked with what the module becomes; empty where every
            processor of the architecture runs it.
    """

    module: tvm.IRModule
    source: str


def guarded(module: tvm.IRModule, target: LibraryTarget) -> Guarded:
    """Have every function of a module check the processor first; `target` must be resolved."""
    features = features_of(tvm_target(target))
    if not features:
        return Guarded(module, "")
    checked = module.clone()
    for name, function in module.functions_items():
        if isinstance(function, relax.Function):
            checked[name] = _checking(function)
    source = _SOURCE.substitute(
        lacking=lacking_in_c(features),
        name=_NAME,
        most=len(features),
        target=target.name,
    )
    return Guarded(checked, source)


def _checking(function: relax.Function) -> relax.Function:
    """Return a function that begins with a call of the check."""
    nothing = relax.TupleType([])
    call = relax.Call(relax.ExternFunc(_NAME), [], ty_args=[nothing])
    first = relax.BindingBlock([relax.VarBinding(relax.Var("checked", nothing), call)])
    body = relax.SeqExpr([first, *function.body.blocks], function.body.body)
    return relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs)
