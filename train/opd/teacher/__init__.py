"""The teacher part: whose distribution is the target, what that model reads, and what is made of it."""

from train.opd.teacher.external_teacher import Route, RouteByOps, RouteToLikeliest
from train.opd.teacher.teacher import (
    EmaTeacher,
    ExternalTeacher,
    InitialStudent,
    LiveTeacher,
    NoTeacher,
    OracleTeacher,
    SyncedTeacher,
    Teacher,
    TeacherConfig,
    TrustRegionTeacher,
)
from train.opd.teacher.transforms import Identity, MixWithUniform, Power, RaisedEntropy, Temper, Transform

__all__ = [
    "EmaTeacher", "ExternalTeacher", "Identity", "InitialStudent", "LiveTeacher", "MixWithUniform", "NoTeacher",
    "OracleTeacher", "Power", "RaisedEntropy", "Route", "RouteByOps", "RouteToLikeliest", "SyncedTeacher", "Teacher",
    "TeacherConfig", "Temper", "Transform", "TrustRegionTeacher",
]  # fmt: skip
