"""`climax-hpc doctor`: is this machine fit for climax_hpc, and if not, what mends it?"""

from climax_hpc.tools.doctor.doctor import DoctorConfig, doctor

__all__ = ["DoctorConfig", "doctor"]
