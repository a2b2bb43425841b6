// Half arithmetic for devices without cl_khr_fp16.
